#include "runtime/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace fathom {
namespace {

struct Top {
  int32_t id = -1;
  float logit = -INFINITY;
};

Result<Top> greatest(std::span<const float> logits) {
  Top top;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || logits[i] == INFINITY)
      return Failure{500, fmt::format("the logit of token {} is {}: the model's output is broken",
                                      i, logits[i])};
    if (logits[i] > top.logit) top = {static_cast<int32_t>(i), logits[i]};  // first wins a tie
  }
  if (top.id < 0) return Failure{500, "every logit is -inf: the model's output is broken"};
  return top;
}

}  // namespace

Result<SamplingParams> checked(const SamplingParams& p) {
  auto wrong = [](const char* name, double value, const char* accepted) {
    return Failure{400, fmt::format("{} is {}: {}", name, value, accepted)};
  };
  if (!(p.temperature >= 0 && p.temperature <= 100))
    return wrong("temperature", p.temperature, "a number from 0 (greedy) to 100 is accepted");
  if (p.top_k < 0) return wrong("top_k", p.top_k, "a count, or 0 for no limit, is accepted");
  if (!(p.top_p > 0 && p.top_p <= 1))
    return wrong("top_p", p.top_p, "a number above 0, up to 1, is accepted");
  if (!(p.min_p >= 0 && p.min_p <= 1))
    return wrong("min_p", p.min_p, "a number from 0 to 1 is accepted");
  return p;
}

Result<int32_t> greedy(std::span<const float> logits) {
  Result<Top> top = greatest(logits);
  if (!top.ok()) return top.failure();
  return top.value().id;
}

Sampler::Sampler(int64_t vocab) { candidates_.reserve(static_cast<size_t>(vocab)); }

Result<int32_t> Sampler::sample(std::span<const float> logits, const SamplingParams& params,
                                int64_t position) {
  Result<Top> found = greatest(logits);
  if (!found.ok()) return found.failure();
  const Top top = found.value();
  const float inverse = 1.0f / params.temperature;
  if (params.temperature == 0 || std::isinf(inverse)) return top.id;

  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i)
    if (uint64_t w = sample_weight(logits[i], top.logit, inverse); w > 0)
      candidates_.push_back({logits[i], static_cast<int32_t>(i), w});

  if (params.top_k > 0) keep_top_k(params.top_k);
  if (params.top_p < 1) keep_nucleus(params.top_p);
  if (params.min_p > 0) {
    uint64_t least = least_weight(uint64_t{1} << kWeightBits, params.min_p);
    std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < least; });
  }

  // Sorted by id: the token that a random number selects must not depend on the order in which
  // filters left the candidates.
  std::sort(candidates_.begin(), candidates_.end(),
            [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
  uint64_t total = 0;
  for (const Candidate& c : candidates_) total += c.weight;
  uint64_t drawn = draw_below(random_bits(params.seed, static_cast<uint64_t>(position)), total);
  for (const Candidate& c : candidates_) {
    if (drawn < c.weight) return c.id;
    drawn -= c.weight;
  }
  FATHOM_CHECK(false, "drew past a total of {}", total);
  return top.id;
}

void Sampler::keep_top_k(int k) {
  if (static_cast<size_t>(k) >= candidates_.size()) return;
  std::nth_element(candidates_.begin(), candidates_.begin() + k, candidates_.end(),
                   [](const Candidate& a, const Candidate& b) {
                     return preferred(a.logit, a.id, b.logit, b.id);
                   });
  candidates_.resize(static_cast<size_t>(k));
}

// Sorts no more than it must: a nucleus is usually a few dozen of a hundred thousand tokens.
void Sampler::keep_nucleus(float top_p) {
  auto before = [](const Candidate& a, const Candidate& b) {
    return preferred(a.logit, a.id, b.logit, b.id);
  };
  uint64_t total = 0;
  for (const Candidate& c : candidates_) total += c.weight;
  const uint64_t enough = nucleus_weight(total, top_p);
  uint64_t sum = 0;
  for (size_t sorted = 0, block = 64; sorted < candidates_.size(); block *= 4) {
    size_t end = std::min(sorted + block, candidates_.size());
    auto begin = candidates_.begin();
    std::partial_sort(begin + static_cast<int64_t>(sorted), begin + static_cast<int64_t>(end),
                      candidates_.end(), before);
    for (; sorted < end; ++sorted) {
      sum += candidates_[sorted].weight;
      if (sum >= enough) return candidates_.resize(sorted + 1);
    }
  }
}

}  // namespace fathom
