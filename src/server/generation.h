// Runs one API request on the engine, whatever its protocol: token ids of the prompts go in, parsed
// pieces of each choice come out.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/result.h"
#include "runtime/request.h"
#include "server/http/http.h"
#include "server/service.h"
#include "text/completion_parser.h"

namespace fathom::server {

struct GenerationRequest {
  std::string id;                // as the client is told, e.g. "chatcmpl-..."
  std::vector<int32_t> prompt;   // token ids
  bool chat = true;              // false: text alone, no reasoning, no tool calls
  bool thinking = false;         // the prompt ends in <think>
  int n = 1;                     // choices; choice i draws with seed + i
  int64_t max_tokens = 0;        // 0, or more than there is room for: until the context is full
  SamplingParams sampling;       // seed: see below
  std::optional<uint64_t> seed;  // none: a fresh one
  LogitRules rules;
  std::vector<std::string> stop;        // texts that end an answer; they are not part of it
  std::vector<int32_t> stop_token_ids;  // beside the end of sentence
  bool ignore_eos = false;
  bool single_call = false;  // the answer ends behind its first tool call
  int logprobs = -1;         // alternatives a token; -1: none
  bool prompt_logprobs = false;
  int priority = 0;
  std::shared_ptr<const CompiledForm> form;  // none: free
  // When the request came in: the start of the time to the first token and of the time limit.
  std::chrono::steady_clock::time_point arrival = std::chrono::steady_clock::now();
};

// What has happened to one choice since its last event.
struct GenerationEvent {
  int choice = 0;
  CompletionParser::Events pieces;  // without `chat`: of kind content
  // When asked for, of the tokens behind `pieces`. By the end there is one for each generated token
  // (stats.generated_tokens): those of a stop text and the one that ended the answer are among
  // them, though they are no text.
  std::vector<TokenLogprobs> logprobs;
  // With the first event of a prompt's first choice, when asked for.
  std::vector<TokenLogprobs> prompt_logprobs;
  // The last event of a choice:
  bool ended = false;
  std::string finish_reason;         // stop, length, tool_calls, error
  std::string stop_text;             // the stop text that ended it
  std::optional<Failure> failure;    // finish_reason error
  const Message* message = nullptr;  // chat: the whole message, for the time of the call
  RequestStats stats;                // tokens so far
  int64_t reasoning_tokens = 0;      // of the generated ones, so far
  bool context_full = false;         // finish_reason length, though max_tokens allowed more
};

// The prompt leaves no room for an answer. The message begins with what clients of OpenAI's API
// look for to know that they must shorten the conversation. A max_tokens that is more than the
// prompt leaves is no such condition: clients name the most that a model could say, not what they
// expect.
class PromptTooLong : public Error {
 public:
  // `detail` follows the number of tokens.
  PromptTooLong(int64_t prompt, int64_t most, std::string_view detail = {})
      : Error(fmt::format("This model's maximum context length is {} tokens, but the prompt has {} "
                          "tokens{}, and the answer needs room, too",
                          most, prompt, detail)),
        tokens(prompt),
        context(most) {}
  const int64_t tokens, context;
};

// Throws PromptTooLong for a prompt that leaves no room in the context. start_generation() does so
// itself; this is for protocols that must know it before they begin to answer.
void require_room(const GenerationRequest& request, int64_t context);

// Starts the request. `listen` is called on the reply's sequence of tasks (HttpReply::post), never
// before this returns, until every choice has ended; several tokens may come in one event when the
// client's side is slower than the engine. The engine gets a bounded number of choices at a time,
// and the rest as these end; when its queue is full they wait. When the client goes away the
// choices are cancelled and `listen` is not called any more. A Failure (400, 429) means that
// nothing was started. So does PromptTooLong, which is thrown so that each protocol can word it.
//
// When one choice fails (the engine failed, the server stops, the time limit is over), the choices
// that have not ended end with the same failure, since an answer lacks one of its choices then.
//
// Text is held back while it may turn out to be the beginning of a stop text; `pieces` of a kind
// add up to the same text however the events are cut. Calls in `message` have the ids of
// tool_call_id().
std::optional<Failure> start_generation(Service& service, std::shared_ptr<HttpReply> reply,
                                        GenerationRequest request,
                                        std::function<void(const GenerationEvent&)> listen);
// Several prompts as one request (at least one); choice i of prompt p is choice p * n + i, with the
// n of the first.
std::optional<Failure> start_generation(Service& service, std::shared_ptr<HttpReply> reply,
                                        std::vector<GenerationRequest> requests,
                                        std::function<void(const GenerationEvent&)> listen);

// "chatcmpl-" and the like with 24 random hex digits.
std::string new_id(std::string_view prefix);

// The id of call `call` of choice `choice` of the request `id`: "call_" and what is random in `id`.
// No state is needed to name a call the same way in a stream and in the whole message.
std::string tool_call_id(std::string_view id, int choice, size_t call);

}  // namespace fathom::server
