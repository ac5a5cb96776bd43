// Answers requests that cannot be read. It needs the router; the reading itself does not, and the
// fuzz targets are built from that alone.
#include "server/api/json_request.h"
#include "server/api/sampling_request.h"

namespace fathom::server {

void answer_errors(HttpReply& reply, std::string_view prompt, const std::function<void()>& handle) {
  try {
    handle();
  } catch (const PromptTooLong& e) {
    send_error(reply, ErrorShape::openai, Failure{400, e.what()}, prompt,
               "context_length_exceeded");
  } catch (const Error& e) {
    const std::string message = e.what();
    send_error(reply, ErrorShape::openai, Failure{400, message}, place_of(message));
  }
}

void send_model_not_found(HttpReply& reply, std::string_view name, const ServiceOptions& options) {
  send_error(reply, ErrorShape::openai,
             {404, fmt::format("the model '{}' is not served here: expected '{}'", name,
                               fmt::join(options.model_names, "' or '"))},
             "model", "model_not_found");
}

}  // namespace fathom::server
