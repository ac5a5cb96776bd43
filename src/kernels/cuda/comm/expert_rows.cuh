// Rows on their way to the ranks of their experts: what a team of threads does with one row.
#pragma once

#include "kernels/cuda/comm/peer_groups.h"
#include "kernels/cuda/norm/lanes.cuh"
#include "kernels/cuda/prim/launch.h"

namespace fathom::cuda {

inline constexpr int kTeam = 128;    // threads that move one row
inline constexpr int kTeams = 4;     // of a CTA
inline constexpr int kInFlight = 4;  // loads of a thread before its first store

// The ranks that hold experts of a row, a bit each. Every lane of the warp must call.
__device__ __forceinline__ uint32_t ranks_of_row(const int32_t* ids, int per_token,
                                                 const ExpertOwners& owners) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int id = lane < per_token ? ids[lane] : -1;
  return __reduce_or_sync(kWarp, id >= 0 ? 1u << owners.of(id) : 0u);
}

// Experts and weights of a row to the first `ranks` of `blocks`.
__device__ __forceinline__ void tell_row(const GroupGatherParams& p, int row, int ranks,
                                         const uint64_t (&blocks)[kMaxPeers]) {
  const int thread = static_cast<int>(threadIdx.x) % kTeam;
  if (thread >= p.per_token) return;
  const int64_t pair = int64_t{row} * p.per_token + thread;
  const int32_t id = p.live ? p.ids[pair] : -1;
  const float weight = p.live ? p.weights[pair] : 0.0f;
  const int64_t place = int64_t{p.first} * p.per_token + pair;
  for (int r = 0; r < ranks; ++r) {
    reinterpret_cast<int32_t*>(blocks[r] + p.ids_at)[place] = id;
    reinterpret_cast<float*>(blocks[r] + p.weights_at)[place] = weight;
  }
}

// A row to those of `blocks` that have their bit in `to`.
__device__ __forceinline__ void send_row(const GroupGatherParams& p, int row, uint32_t to,
                                         const uint64_t (&blocks)[kMaxPeers]) {
  const int thread = static_cast<int>(threadIdx.x) % kTeam, words = p.row_bytes / 16;
  const uint4* from = reinterpret_cast<const uint4*>(p.from + row * p.from_pitch);
  const int64_t at = int64_t{p.first + row} * p.row_bytes;
  for (int begin = thread; begin < words; begin += kInFlight * kTeam) {
    uint4 value[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i)
      if (begin + i * kTeam < words) value[i] = from[begin + i * kTeam];
    for (uint32_t left = to; left != 0; left &= left - 1) {
      uint4* out = reinterpret_cast<uint4*>(blocks[__ffs(static_cast<int>(left)) - 1] + at);
#pragma unroll
      for (int i = 0; i < kInFlight; ++i)
        if (begin + i * kTeam < words) out[begin + i * kTeam] = value[i];
    }
  }
  for (int g = thread; g < p.scale_groups; g += kTeam) {
    const float scale = p.scales[g * p.scale_stride + row];
    const int64_t place = int64_t{p.first + row} * p.scale_groups + g;
    for (uint32_t left = to; left != 0; left &= left - 1)
      reinterpret_cast<float*>(blocks[__ffs(static_cast<int>(left)) - 1] + p.scales_at)[place] =
          scale;
  }
}

}  // namespace fathom::cuda
