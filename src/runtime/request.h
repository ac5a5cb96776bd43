// Requests to the engine and its answers: token ids in, token ids out.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "numerics/sampling.h"

namespace fathom {

using RequestId = uint64_t;

enum class Finish : uint8_t {
  none,       // not finished
  stop,       // one of the stop ids
  length,     // max_new_tokens, or the end of the context
  cancelled,  // by cancel()
  error,      // see TokenEvent::error
};

constexpr const char* name_of(Finish f) {
  switch (f) {
    case Finish::none:
      return "none";
    case Finish::stop:
      return "stop";
    case Finish::length:
      return "length";
    case Finish::cancelled:
      return "cancelled";
    case Finish::error:
      return "error";
  }
  return "?";
}

struct RequestStats {
  int64_t prompt_tokens = 0;
  int64_t reused_tokens = 0;     // of the prompt, found in the cache
  int64_t generated_tokens = 0;  // the stop token included
  int64_t draft_tokens = 0;      // drafts of this request that were verified,
  int64_t accepted_tokens = 0;   // and of these the accepted ones
  int preemptions = 0;
  double first_token_seconds = 0;  // from submit to the first token
  double decode_seconds = 0;       // from the first token to the last
};

// Log-probabilities (natural, of the model's own logits: before temperature, rules and masks) of
// one token of a text.
struct TokenLogprobs {
  int32_t token = -1;
  float logprob = 0;
  std::vector<std::pair<int32_t, float>> top;  // the most probable alternatives, best first
};

// Which earlier positions the indexer selected for one query token, layer by layer.
struct Selection {
  int64_t position = 0;                          // of the query: the token before the drawn one
  std::vector<std::span<const int32_t>> layers;  // ascending positions
};

// Passed to the sink on the engine thread. What it points to is valid during the call only.
struct TokenEvent {
  RequestId id = 0;
  int32_t token = -1;            // -1: none, an end without a token (cancelled, error)
  Finish finish = Finish::none;  // not none: the last event of this request
  std::string error;
  bool drafted = false;  // the token was a draft that was accepted
  const RequestStats* stats = nullptr;
  const TokenLogprobs* logprobs = nullptr;  // of `token`, when asked for
  // Of the prompt's tokens from Request::prompt_logprobs_from on. With the first event, if asked
  // for.
  std::span<const TokenLogprobs> prompt_logprobs = {};
  const Selection* selection = nullptr;  // of the query that `token` was drawn for, if asked for
};

// Changes to the logits before a token is drawn, applied in the order of the fields. They depend on
// the request's own tokens alone.
struct LogitRules {
  std::vector<std::pair<int32_t, float>> bias;  // added to the logit of a token, -100 to 100
  // Above 0: logits of tokens seen in prompt or answer are divided by it if positive, multiplied
  // otherwise.
  float repetition_penalty = 1;
  float frequency_penalty = 0;  // -2 to 2: subtracted for each time a token occurs in the answer
  float presence_penalty = 0;   // -2 to 2: subtracted once for a token that occurs in the answer
  int64_t min_new_tokens = 0;   // stop ids are not drawn before this many

  bool any() const {
    return !bias.empty() || repetition_penalty != 1 || frequency_penalty != 0 ||
           presence_penalty != 0 || min_new_tokens > 0;
  }
};

// Restricts which tokens may be drawn next, so that an answer follows a grammar. One object per
// request.
class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;
  // Returns which tokens may come next: token i is bit i % 64 of word i / 64. Empty: any token may.
  // Ids beyond the last word may not. Waits until the mask is computed; at least one bit is set.
  virtual std::span<const uint64_t> allowed() = 0;
  // Advances the constraint by the token that was drawn, and returns at once: another thread
  // computes the next mask while the model computes the next logits.
  virtual void accept(int32_t token) = 0;
  // Returns how many of `drafts` (of the next tokens), from the first on, the constraint
  // allows. The others need not be verified. Changes nothing. A constraint that cannot tell returns
  // their number: each token is drawn under its own mask in any case.
  virtual size_t possible(std::span<const int32_t> drafts) { return drafts.size(); }
};

// The most alternatives that `logprobs` may ask for.
inline constexpr int kMaxTopLogprobs = 20;

struct Request {
  std::vector<int32_t> ids;
  int64_t max_new_tokens = 200;
  SamplingParams sampling;
  LogitRules rules;
  std::vector<int32_t> stop_ids;
  std::shared_ptr<TokenConstraint> constraint;  // none: any token
  int logprobs = -1;                            // alternatives to report; -1: no log-probabilities
  bool prompt_logprobs = false;                 // also of the prompt,
  int64_t prompt_logprobs_from = 1;             // from this prompt token on (the first has none)
  bool keep_selection = false;                  // report what the indexer selected
  int priority = 0;                             // lower numbers are served first
  // Must not block and must not throw. It may call submit() and cancel().
  std::function<void(const TokenEvent&)> sink;
};

}  // namespace fathom
