// A row of logits as the CTAs of its cluster see it: what they share, what has been decided, and
// the walk over the tokens that are left.
#pragma once

#include <cstdint>

#include "kernels/cuda/prim/cluster.h"
#include "kernels/cuda/prim/warp_sum.h"
#include "kernels/cuda/sample/sample.h"

namespace fathom::cuda::sample {

inline constexpr int kThreads = 256, kWarps = kThreads / 32;
inline constexpr int kResident = 4;  // CTAs an SM
inline constexpr int kCluster = 8;
inline constexpr int kDigitBits = 10, kBins = 1 << kDigitBits;
inline constexpr int kGroups = 32, kRun = kBins / kGroups;
static_assert(kRun == 32);
// Sums of weights (at most 2^40) are built by shared-memory atomics in parts of 17 bits, each in a
// word of 32 bits: a CTA adds at most 2^15 tokens, an eighth of the greatest vocabulary.
inline constexpr int kParts = 3, kPartBits = 17;
inline constexpr int kIdBits = 18, kLevels = (32 + kIdBits) / kDigitBits + 1;
inline constexpr uint32_t kNothing = ~0u;
inline constexpr int kListed = 4096;      // tokens of a CTA that a list holds
inline constexpr int kFew = 64;           // of these, tokens of one bin that are exchanged
inline constexpr uint32_t kRanked = 512;  // listed tokens that find their places by looking
inline constexpr int kRunTokens = 128;    // of whose weights a sum is kept: four a lane
static_assert(kMaxSampleVocab <= 1 << kIdBits && kMaxSampleVocab / kCluster <= 1 << 15);

struct Candidate {
  uint64_t preference, measure;
};
struct Weighed {
  uint64_t weight;
  uint32_t token;
};

struct Shared {
  union {
    uint32_t part[kParts * kBins];
    Candidate all[kCluster * kFew];
    Weighed weighed[kRanked];
  };
  uint64_t sum[2][kBins];
  uint64_t group[2][kGroups];
  Candidate few[2][kFew];  // of this CTA: by weight, by count
  uint32_t few_count[2];
  uint16_t list[kListed];
  uint64_t run[kMaxSampleVocab / kCluster / kRunTokens];  // weights of runs of tokens
  uint32_t listed;
  uint64_t best;   // preference of this CTA's greatest logit
  uint64_t total;  // weight of what this CTA kept
  uint64_t cut;
  uint32_t broken;
  uint64_t found_above, found_need;
  uint32_t found_bin;
  uint64_t warp_sum[kWarps];
};

template <class T>
__device__ __forceinline__ T cluster_total(const T* p) {
  T parts[kCluster], sum = 0;
#pragma unroll
  for (int c = 0; c < kCluster; ++c) parts[c] = load_remote(p, c);
#pragma unroll
  for (int c = 0; c < kCluster; ++c) sum += parts[c];
  return sum;
}

__device__ __forceinline__ uint64_t warp_sum(uint64_t v) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(~0u, v, d);
  return v;
}

// Greater is preferred.
__device__ __forceinline__ uint64_t preference(float logit, uint32_t id) {
  return (uint64_t{order_key(logit)} << kIdBits) | ((1u << kIdBits) - 1 - id);
}

// The row and what has been decided about it so far, the same in every CTA but for the first lines.
struct Row {
  const float* logits;    // this CTA's
  uint32_t first, count;  // its tokens
  bool aligned;           // four logits are one load
  bool listed = false;    // what can still be kept is in its list
  float top = 0, inverse = 0;
  uint64_t cut = 0;    // tokens of lower preference are out
  uint64_t floor = 0;  // and so are those of less weight

  __device__ float scaled(float logit) const {  // (-27.8, 0] where there is weight
    return mul_rounded(add_rounded(logit, -top), inverse);
  }
  __device__ uint64_t weight(uint32_t i, float logit) const {
    const uint64_t w = sample_weight(logit, top, inverse);
    return w >= floor && preference(logit, first + i) >= cut ? w : 0;
  }
  __device__ uint64_t measure(bool by_count, uint32_t i, float logit) const {
    if (!by_count) return weight(i, logit);
    // Far from the least weight there is no need to compute it.
    if (floor == 0 && cut == 0 && scaled(logit) > -27.0f) return 1;
    return weight(i, logit) != 0 ? 1 : 0;
  }
  // Never increases as the preference falls, and spreads the weights evenly over the bins.
  __device__ uint32_t coarse_digit(float logit) const {
    return kBins - 1 - min(static_cast<int>(-scaled(logit) * 36.5f), kBins - 1);
  }
  // Level 0 is the coarse digit; then come those of the preference, most significant first.
  __device__ uint32_t digit(int level, uint32_t i, float logit) const {
    if (level == 0) return coarse_digit(logit);
    const int shift = 32 + kIdBits - kDigitBits * level;
    return static_cast<uint32_t>(preference(logit, first + i) >> shift) & (kBins - 1);
  }
};

// Four logits from an aligned row, or -inf where it has no token: that has no weight.
__device__ __forceinline__ float4 load_four(const Row& row, uint32_t i) {
  if (row.aligned && i + 4 <= row.count) return *reinterpret_cast<const float4*>(row.logits + i);
  float v[4];
#pragma unroll
  for (uint32_t j = 0; j < 4; ++j) v[j] = i + j < row.count ? row.logits[i + j] : -INFINITY;
  return {v[0], v[1], v[2], v[3]};
}

// f(token, logit) for this CTA's tokens that can still be kept, a thread's in ascending order.
// kLoads of four logits are in flight.
template <int kLoads, class F>
__device__ __forceinline__ void for_tokens(const Shared& s, const Row& row, F f) {
  if (row.listed) {
    for (uint32_t at = threadIdx.x; at < s.listed; at += kThreads)
      f(uint32_t{s.list[at]}, row.logits[s.list[at]]);
    return;
  }
  auto all_of = [&](uint32_t i, const float4& v) {
    f(i, v.x);
    f(i + 1, v.y);
    f(i + 2, v.z);
    f(i + 3, v.w);
  };
  const uint32_t fours = row.aligned ? row.count / 4 : 0;
  uint32_t at = threadIdx.x;
  for (; at + (kLoads - 1) * kThreads < fours; at += kLoads * kThreads) {
    float4 v[kLoads];
#pragma unroll
    for (int j = 0; j < kLoads; ++j)
      v[j] = *reinterpret_cast<const float4*>(row.logits + 4 * (at + j * kThreads));
#pragma unroll
    for (int j = 0; j < kLoads; ++j) all_of(4 * (at + j * kThreads), v[j]);
  }
  for (; at < fours; at += kThreads)
    all_of(4 * at, *reinterpret_cast<const float4*>(row.logits + 4 * at));
  for (uint32_t i = 4 * fours + threadIdx.x; i < row.count; i += kThreads) f(i, row.logits[i]);
}

}  // namespace fathom::cuda::sample
