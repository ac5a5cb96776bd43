// Any bytes as the body of /v1/responses or /v1/messages: a request whose prompt can be written, or
// an Error, never anything else.
#include "request_body.h"
#include "server/api/anthropic_request.h"
#include "server/api/responses_request.h"

using namespace fathom;
using namespace fathom::server;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz_request_body(data, size, [](const OrderedJson& body, const ServiceOptions& options) {
    try {
      ResponseStore stored(1);
      const ResponsesRequest request = read_responses_request(body, options, stored, "resp_0");
      FATHOM_CHECK(!request.history.empty(), "an input without an item");
      FATHOM_CHECK(request.response["output"].empty(), "output before an answer");
      render(request.chat.conversation,
             {options.encoding, request.chat.thinking && !request.chat.continues, false});
    } catch (const Error&) {
    }
    try {
      const MessagesRequest request = read_messages_request(body, options, false);
      FATHOM_CHECK(request.chat.generation.max_tokens >= 1, "max_tokens {}",
                   request.chat.generation.max_tokens);
      render(request.chat.conversation,
             {options.encoding, request.chat.thinking && !request.chat.continues, false});
    } catch (const Error&) {
    }
  });
  return 0;
}
