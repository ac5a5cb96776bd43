// One API request on its way through the engine, the same for every protocol: prompts in, parsed
// pieces of each choice out.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "runtime/request.h"
#include "server/http.h"
#include "server/service.h"
#include "text/completion_parser.h"

namespace fathom::server {

struct GenerationRequest {
  std::string id;                // as the client is told, e.g. "chatcmpl-..."
  std::vector<int32_t> prompt;   // token ids
  bool chat = true;              // false: text alone, no reasoning, no tool calls
  bool thinking = false;         // the prompt ends in <think>
  int n = 1;                     // choices; choice i draws with seed + i
  int64_t max_tokens = 0;        // 0: until the context is full
  SamplingParams sampling;       // seed: see below
  std::optional<uint64_t> seed;  // none: a fresh one
  LogitRules rules;
  std::vector<std::string> stop;  // texts that end an answer; they are not part of it
  bool ignore_eos = false;
  int logprobs = -1;  // alternatives a token; -1: none
  bool prompt_logprobs = false;
  int priority = 0;
  std::shared_ptr<const CompiledForm> form;  // none: free
};

// What has happened to one choice since its last event.
struct GenerationEvent {
  int choice = 0;
  CompletionParser::Events pieces;             // without `chat`: of kind content
  std::vector<TokenLogprobs> logprobs;         // of the tokens behind `pieces`, when asked for
  std::vector<TokenLogprobs> prompt_logprobs;  // with the first event of a choice, when asked for
  // The last event of a choice:
  bool ended = false;
  std::string finish_reason;         // stop, length, tool_calls, error
  std::string stop_text;             // the stop text that ended it
  std::optional<Failure> failure;    // finish_reason error
  const Message* message = nullptr;  // chat: the whole message, for the time of the call
  RequestStats stats;                // tokens so far
};

// Starts the request. `listen` is called on the reply's sequence of tasks (HttpReply::post), never
// before this returns, until every choice has ended; several tokens may come in one event when the
// client's side is slower than the engine. When the client goes away the choices are cancelled and
// `listen` is not called any more. A Failure (400, 429) means that nothing was started.
//
// Text is held back while it may turn out to be the beginning of a stop text; `pieces` of a kind
// add up to the same text however the events are cut.
std::optional<Failure> start_generation(Service& service, std::shared_ptr<HttpReply> reply,
                                        GenerationRequest request,
                                        std::function<void(const GenerationEvent&)> listen);

// "chatcmpl-" and the like with 24 random hex digits.
std::string new_id(std::string_view prefix);

}  // namespace fathom::server
