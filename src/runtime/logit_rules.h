// Changes that the host makes to a row of logits before a token is drawn: penalties, biases, masks.
// The work is one copy of the row, and more only for the tokens that the rules name.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "runtime/request.h"
#include "runtime/sampler.h"

namespace fathom {

// Returns `rules`, or a Failure that names the first rule out of its range, its value and what is
// accepted.
Result<LogitRules> checked(const LogitRules& rules, int64_t vocab, int64_t max_new_tokens);

// The tokens of one request, each once. Thread-compatible.
class SeenTokens {
 public:
  struct Seen {
    int32_t id = 0;
    int32_t in_answer = 0;  // how often it occurs in the answer
  };
  void add_prompt(std::span<const int32_t> ids);
  void add_answer(int32_t id);
  std::span<const Seen> all() const { return seen_; }

 private:
  Seen& at(int32_t id);
  std::vector<Seen> seen_;
  std::unordered_map<int32_t, size_t> place_;
};

// Everything that decides one draw.
struct RuledDraw {
  const Request* request = nullptr;
  const SeenTokens* seen = nullptr;  // read only where the rules have penalties
  int64_t generated = 0;             // tokens of the answer so far
  int64_t position = 0;              // of the token that is drawn
};

// Draws under rules and a constraint. Without either it draws bit for bit as Sampler does.
// Thread-compatible. Allocates in its constructor only.
class RuledSampler {
 public:
  explicit RuledSampler(int64_t vocab);

  // Fails, for this request alone, when the logits are not numbers or when the constraint allows no
  // token. If rules and constraint contradict each other (too early to stop, and nothing else is
  // allowed), the constraint wins. Waits for the constraint's mask. The caller passes the drawn
  // token to TokenConstraint::accept().
  Result<int32_t> draw(std::span<const float> logits, const RuledDraw& draw);

 private:
  Result<int32_t> draw_masked(const RuledDraw& draw, std::span<const uint64_t> allowed);

  Sampler sampler_;
  std::vector<float> row_;
};

// Whether a request's tokens can be drawn only on the host.
inline bool draws_by_host(const Request& r) { return r.rules.any() || r.constraint != nullptr; }
// Whether the host must read the logits of each of its tokens.
inline bool reads_logits(const Request& r) { return draws_by_host(r) || r.logprobs >= 0; }

// Returns the log-probabilities of `token` and of the `top` most probable tokens: the log-softmax
// of a row of the model's logits, computed in float64.
TokenLogprobs logprobs_of(std::span<const float> logits, int32_t token, int top);

}  // namespace fathom
