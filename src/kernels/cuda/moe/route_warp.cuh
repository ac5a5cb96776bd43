// One token's routing by one warp: numerics/routing.h's rule, 32 lanes wide. Kept apart because two
// kernels use it: routing alone, and routing with the permutation of a decode step.
//
// Numerics
//   scores   sigmoid as written in the rule, or softmax (sums by lane, so its last bit may differ
//            from the host's); bias added in f32
//   choice   by order_key of the biased score, then lower id; a NaN is never chosen while a number
//            is left; equal scores give the host's ids bit for bit
//   weights  summed in order of preference, as on the host
#pragma once

#include <cstdint>

#include "kernels/cuda/moe/moe.h"
#include "numerics/selection.h"

namespace fathom::cuda::moe {

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, d));
  return v;
}
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(~0u, v, d);
  return v;
}

// The two greatest of a set, as the rule finds them: NaN is passed over.
struct TopTwo {
  float first = -INFINITY, second = -INFINITY;
  __device__ void add(float v) {
    if (v > first) {
      second = first;
      first = v;
    } else if (v > second) {
      second = v;
    }
  }
};

// Floats of shared memory a warp needs for group counts that lanes do not divide evenly.
__host__ __device__ inline int route_scratch(const RouterShape& s) {
  return s.groups > 1 ? s.experts + 2 * s.groups : 0;
}

// A lane owns experts [lane * per, lane * per + per), per <= kPer. Lane i returns the choice of
// slot i.
template <int kPer>
__device__ __forceinline__ void route_warp(const RouterShape& s, const float* logits,
                                           const float* bias, float* scratch, int32_t& id_out,
                                           float& weight_out) {
  const int lane = threadIdx.x % 32;
  const int per = (s.experts + 31) / 32, first = lane * per;
  auto owned = [&](int j) { return j < per && first + j < s.experts; };

  // Phase 1: scores, and the biased ones that choose.
  float score[kPer], choice[kPer];
#pragma unroll
  for (int j = 0; j < kPer; ++j) {
    score[j] = owned(j) ? logits[first + j] : -INFINITY;
    choice[j] = owned(j) && bias ? bias[first + j] : 0.0f;
  }
  if (s.sigmoid) {
#pragma unroll
    for (int j = 0; j < kPer; ++j) score[j] = 1.0f / (1.0f + expf(-score[j]));
  } else {
    float top = -INFINITY, sum = 0;
#pragma unroll
    for (int j = 0; j < kPer; ++j) top = fmaxf(top, score[j]);
    top = warp_max(top);
#pragma unroll
    for (int j = 0; j < kPer; ++j) sum += score[j] = owned(j) ? expf(score[j] - top) : 0.0f;
    sum = warp_sum(sum);
#pragma unroll
    for (int j = 0; j < kPer; ++j) score[j] /= sum;
  }
#pragma unroll
  for (int j = 0; j < kPer; ++j) choice[j] += score[j];

  // Phase 2: groups that are not kept count as -inf.
  if (s.groups > 1) {
    const int size = s.experts / s.groups, lanes = size / per;
    if (size % per == 0 && (lanes & (lanes - 1)) == 0 && s.experts == 32 * per &&
        s.experts == s.groups * size) {
      // A group is a power of two of neighbouring lanes: butterflies stay inside it.
      TopTwo best;
#pragma unroll
      for (int j = 0; j < kPer; ++j)
        if (j < per) best.add(choice[j]);
      for (int d = 1; d < lanes; d *= 2) {
        float first_of = __shfl_xor_sync(~0u, best.first, d);
        float second_of = __shfl_xor_sync(~0u, best.second, d);
        best.add(first_of);
        best.add(second_of);
      }
      const float group = size > 1 ? best.first + best.second : best.first;
      const int g = lane / lanes;
      int better = 0;
#pragma unroll 4
      for (int o = 0; o < s.groups; ++o) {
        float other = __shfl_sync(~0u, group, o * lanes);
        better += other > group || (other == group && o < g);
      }
      if (better >= s.kept_groups) {
#pragma unroll
        for (int j = 0; j < kPer; ++j) choice[j] = -INFINITY;
      }
    } else {
      float* group = scratch + s.experts;
      int* kept = reinterpret_cast<int*>(group + s.groups);
#pragma unroll
      for (int j = 0; j < kPer; ++j)
        if (owned(j)) scratch[first + j] = choice[j];
      __syncwarp();
      for (int g = lane; g < s.groups; g += 32) {
        TopTwo best;
        for (int e = g * size; e < (g + 1) * size; ++e) best.add(scratch[e]);
        group[g] = size > 1 ? best.first + best.second : best.first;
      }
      __syncwarp();
      for (int g = lane; g < s.groups; g += 32) {
        int better = 0;
        for (int o = 0; o < s.groups; ++o)
          better += group[o] > group[g] || (group[o] == group[g] && o < g);
        kept[g] = better < s.kept_groups;
      }
      __syncwarp();
      // Experts past the last whole group belong to none and are never masked.
#pragma unroll
      for (int j = 0; j < kPer; ++j) {
        int g = (first + j) / size;
        if (owned(j) && g < s.groups && !kept[g]) choice[j] = -INFINITY;
      }
      __syncwarp();  // the warp's next token uses scratch again
    }
  }

  // Phase 3: take the best expert per_token times. Key 0 is below that of every number; it marks
  // experts that are taken, NaN or not owned.
  uint32_t key[kPer];
#pragma unroll
  for (int j = 0; j < kPer; ++j)
    key[j] = owned(j) && choice[j] == choice[j] ? order_key(choice[j]) : 0;
  auto best_left = [&] {
    uint32_t best = 0;
#pragma unroll
    for (int j = 0; j < kPer; ++j) best = max(best, key[j]);
    return best;
  };
  float sum = 0, own_score = 0;
  int own_id = -1;
  uint32_t best = best_left();
  for (int k = 0; k < s.per_token; ++k) {
    const uint32_t top = __reduce_max_sync(~0u, best);
    // Lanes own ascending ids with the lowest in the lowest bits, so of equal scores the lowest id
    // is chosen.
    int owner = __ffs(__ballot_sync(~0u, best == top)) - 1;
    uint32_t which = 0;
#pragma unroll
    for (int j = 0; j < kPer; ++j) which |= uint32_t{key[j] == top} << j;
    which &= -which;
    if (top == 0) {  // all NaN: take any valid expert, whose weight carries the NaN on
      owner = k / per;
      which = 1u << (k % per);
    }
    float chosen = 0;
#pragma unroll
    for (int j = 0; j < kPer; ++j) {
      const bool hit = which >> j & 1;
      chosen = hit ? score[j] : chosen;
      key[j] = hit && lane == owner ? 0 : key[j];
    }
    best = best_left();
    chosen = __shfl_sync(~0u, chosen, owner);
    const int id = __shfl_sync(~0u, first + __ffs(which) - 1, owner);
    sum += chosen;
    if (lane == k) {
      own_id = id;
      own_score = chosen;
    }
  }
  id_out = own_id;
  weight_out = (s.normalise ? own_score / sum : own_score) * s.scale;
}

}  // namespace fathom::cuda::moe
