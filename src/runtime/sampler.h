// Draws the next token of a sequence from its logits by the rule of numerics/sampling.h.
#pragma once

#include <span>
#include <vector>

#include "base/result.h"
#include "numerics/sampling.h"

namespace fathom {

// Returns `params`, or a Failure that names the first parameter out of its range, its value and
// what is accepted.
Result<SamplingParams> checked(const SamplingParams& params);

// Returns the token of the greatest logit, the lowest id on ties. Fails when the logits are not
// numbers: a NaN, +inf, or nothing but -inf.
Result<int32_t> greedy(std::span<const float> logits);

// Thread-compatible. Allocates in its constructor only.
class Sampler {
 public:
  explicit Sampler(int64_t vocab);

  // Draws the token at `position`. Fails as greedy() does.
  Result<int32_t> sample(std::span<const float> logits, const SamplingParams& params,
                         int64_t position);

 private:
  struct Candidate {
    float logit;
    int32_t id;
    uint64_t weight;
  };
  void keep_top_k(int k);
  void keep_nucleus(float top_p);

  std::vector<Candidate> candidates_;
};

}  // namespace fathom
