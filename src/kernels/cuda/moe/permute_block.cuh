// Places up to 1024 (token, slot) pairs in the ragged order, by one CTA of 1024 threads: a stable
// counting sort by expert. It uses no atomics, so pairs of an expert keep their order.
#pragma once

#include <cstdint>

#include "kernels/cuda/moe/moe.h"
#include "kernels/cuda/prim/warp_sum.h"

namespace fathom::cuda::moe {

inline constexpr int kPairWarps = kPairs / 32;

struct PermuteShared {
  uint32_t start[kMaxExperts];  // first row of this block's pairs of an expert
  uint32_t warp_total[kPairWarps];
  uint16_t count[];  // [kPairWarps, experts]: pairs of a warp; after the scan, of earlier warps
};

inline size_t permute_shared_bytes(int experts) {
  return sizeof(PermuteShared) + sizeof(uint16_t) * kPairWarps * static_cast<size_t>(experts);
}

// Exclusive sum over the CTA's threads; `all` is the total. Contains barriers.
__device__ __forceinline__ uint32_t block_before(uint32_t v, uint32_t* warp_total, uint32_t& all) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t end = prefix_sum(v, lane);
  if (lane == 31) warp_total[warp] = end;
  __syncthreads();
  uint32_t total = warp_total[lane];
  uint32_t before = __reduce_add_sync(~0u, lane < warp ? total : 0);
  all = __reduce_add_sync(~0u, total);
  return before + end - v;
}

// The expert of a pair, counted from the first that is placed; -1 if it is none of them.
__device__ __forceinline__ int placed_expert(int id, int first, int experts) {
  const int own = id - first;
  return id >= 0 && own >= 0 && own < experts ? own : -1;
}

// Clears what place_pairs counts in; a barrier must follow.
__device__ __forceinline__ void clear_counts(PermuteShared& s, int experts) {
  uint32_t* words = reinterpret_cast<uint32_t*>(s.count);
  for (int i = threadIdx.x; i < kPairWarps * experts / 2; i += kPairs) words[i] = 0;
}

// `id`: the expert of pair threadIdx.x, -1 if none. `total_of(e, own, before)` takes the pairs of
// expert e in this block, returns those in all blocks, and sets `before` to those in earlier
// blocks. Returns the pair's row; sets the first row of expert threadIdx.x, and the number of all
// rows.
template <class TotalOf>
__device__ __forceinline__ int place_pairs(PermuteShared& s, int id, int experts, TotalOf total_of,
                                           uint32_t& first_row, uint32_t& all_rows) {
  const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
  const uint32_t same = __match_any_sync(~0u, id);
  const uint32_t earlier = same & ((1u << lane) - 1);
  if (id >= 0 && earlier == 0) s.count[warp * experts + id] = static_cast<uint16_t>(__popc(same));
  __syncthreads();
  uint32_t own = 0, total = 0, before = 0;
  if (tid < experts) {
#pragma unroll 8
    for (int w = 0; w < kPairWarps; ++w) {
      uint32_t c = s.count[w * experts + tid];
      s.count[w * experts + tid] = static_cast<uint16_t>(own);
      own += c;
    }
    total = total_of(tid, own, before);
  }
  first_row = block_before(total, s.warp_total, all_rows);
  if (tid < experts) s.start[tid] = first_row + before;
  __syncthreads();
  if (id < 0) return -1;
  return static_cast<int>(s.start[id] + s.count[warp * experts + id]) + __popc(earlier);
}

}  // namespace fathom::cuda::moe
