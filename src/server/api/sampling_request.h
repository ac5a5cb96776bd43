// Reads the sampling fields of a request, which are the same for every OpenAI endpoint.
#pragma once

#include "server/api/json_request.h"
#include "server/generation.h"

namespace fathom::server {

inline constexpr int kMaxChoices = 128;
inline constexpr size_t kMaxStopTexts = 16, kMaxStopBytes = 4096;

// Reads n, temperature, top_p, top_k, min_p, the penalties, logit_bias, seed, stop, stop_token_ids,
// ignore_eos, min_tokens and priority into `request`; absent fields get the values of `options`.
// Throws Error with the place for what is wrong.
void read_sampling(const JsonField& root, const ServiceOptions& options,
                   GenerationRequest& request);

// Reads a list of stop texts; none if it is absent. Throws Error with the place if there are too
// many, or if one is empty or too long.
std::vector<std::string> read_stop_texts(const JsonField& at);

// `stream` and `stream_options`.
struct StreamRequest {
  bool stream = false;
  bool include_usage = false;     // a chunk with the usage at the end
  bool continuous_usage = false;  // the usage so far with every chunk
};
StreamRequest read_stream(const JsonField& root);

// Whether this server serves the request's `model`: it is absent, or one of the served names.
// Throws Error if it is no string.
bool serves_model(const JsonField& root, const ServiceOptions& options);
bool serves_model(std::string_view name, const ServiceOptions& options);
// Answers a request for another model: 404, code model_not_found.
void send_model_not_found(HttpReply& reply, std::string_view name, const ServiceOptions& options);

}  // namespace fathom::server
