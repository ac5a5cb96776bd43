// POST /v1/completions: continues a text, without roles, reasoning or tools.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/api/json_request.h"
#include "server/api/sampling_request.h"
#include "server/generation.h"
#include "server/http/http.h"
#include "server/service.h"

namespace fathom::server {

// One prompt of a request: text, or the ids themselves.
struct TextPrompt {
  std::optional<std::string> text;
  std::vector<int32_t> ids;
};

struct CompletionRequest {
  std::vector<TextPrompt> prompts;
  bool echo = false;
  bool no_answer = false;          // max_tokens 0: the prompt alone comes back
  bool add_special_tokens = true;  // add what the tokenizer puts around a text
  StreamRequest stream;
  GenerationRequest generation;  // without id and prompt
};

// Throws Error with the place for what is wrong or not supported.
CompletionRequest read_completion_request(const OrderedJson& body, const ServiceOptions& options);

void handle_completions(Service& service, const HttpRequest& request,
                        const std::shared_ptr<HttpReply>& reply);

}  // namespace fathom::server
