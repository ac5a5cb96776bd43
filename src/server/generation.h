// Runs one API request of any protocol on the engine: token ids of the prompts go in, parsed pieces
// of each choice come out.
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
  std::string id;                // as the client knows it, e.g. "chatcmpl-..."
  std::vector<int32_t> prompt;   // token ids
  bool chat = true;              // false: text only, no reasoning, no tool calls
  bool thinking = false;         // the prompt ends in <think>
  int n = 1;                     // choices; choice i draws with seed + i
  int64_t max_tokens = 0;        // 0, or more than fits: until the context is full
  SamplingParams sampling;       // seed: see below
  std::optional<uint64_t> seed;  // none: a fresh one
  LogitRules rules;
  std::vector<std::string> stop;        // texts that end an answer; not part of it
  std::vector<int32_t> stop_token_ids;  // besides the end of sentence
  bool ignore_eos = false;
  bool single_call = false;  // the answer ends after its first tool call
  int logprobs = -1;         // alternatives per token; -1: no log-probabilities
  bool prompt_logprobs = false;
  int priority = 0;
  std::shared_ptr<const CompiledForm> form;  // none: free
  // When the request arrived. Time to the first token and the time limit are counted from here.
  std::chrono::steady_clock::time_point arrival = std::chrono::steady_clock::now();
};

// What has happened to one choice since its last event.
struct GenerationEvent {
  int choice = 0;
  CompletionParser::Events pieces;  // without `chat`: of kind content
  // If asked for: log-probabilities of the tokens of `pieces`. In the end there is one entry for
  // each generated token (stats.generated_tokens). That includes the tokens of a stop text and the
  // one that ended the answer, though their text is not in `pieces`.
  std::vector<TokenLogprobs> logprobs;
  // If asked for: with the first event of a prompt's first choice.
  std::vector<TokenLogprobs> prompt_logprobs;
  // The last event of a choice:
  bool ended = false;
  std::string finish_reason;         // stop, length, tool_calls, error
  std::string stop_text;             // the stop text that ended it
  std::optional<Failure> failure;    // finish_reason error
  const Message* message = nullptr;  // chat: the whole message; valid during the call
  RequestStats stats;                // tokens so far
  int64_t reasoning_tokens = 0;      // of the generated ones, so far
  bool context_full = false;         // finish_reason length, though max_tokens allowed more
};

// The prompt leaves no room for an answer. The message begins with the words by which clients of
// OpenAI's API recognise that they must shorten the conversation. A max_tokens above the room that
// is left is no error: clients set it to the most that a model could write, not to what they
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

// Throws PromptTooLong if the prompt leaves no room in the context. start_generation() also checks
// it; this is for protocols that must know before they begin to answer.
void require_room(const GenerationRequest& request, int64_t context);

// Starts the request. A returned Failure (400, 429) means that nothing was started. So does a
// thrown PromptTooLong, which each protocol words in its own way.
//
// `listen` is called as a task of the reply (HttpReply::post), never before this returns, until
// every choice has ended. If the engine is faster than the client's side, one event may have
// several tokens. If the client goes away, the choices are cancelled and `listen` is not called any
// more.
//
// A bounded number of choices is submitted to the engine at a time, and the others as these end. If
// the engine's queue is full they wait.
//
// If one choice fails (the engine fails, the server stops, the time limit is exceeded), the choices
// that have not ended end with the same failure, because the answer is incomplete without it.
//
// Text is held back while it may be the beginning of a stop text. The `pieces` of each kind add up
// to the same text however the events are cut. Calls in `message` have the ids of tool_call_id().
std::optional<Failure> start_generation(Service& service, std::shared_ptr<HttpReply> reply,
                                        GenerationRequest request,
                                        std::function<void(const GenerationEvent&)> listen);
// Starts several prompts (at least one) as one request. Choice i of prompt p is choice p * n + i,
// with the n of the first.
std::optional<Failure> start_generation(Service& service, std::shared_ptr<HttpReply> reply,
                                        std::vector<GenerationRequest> requests,
                                        std::function<void(const GenerationEvent&)> listen);

// Returns `prefix` ("chatcmpl-" and the like) and 24 random hex digits.
std::string new_id(std::string_view prefix);

// Returns the id of call `call` of choice `choice` of the request `id`: "call_" and the random part
// of `id`. It needs no state, so a call has the same id in a stream and in the whole message.
std::string tool_call_id(std::string_view id, int choice, size_t call);

}  // namespace fathom::server
