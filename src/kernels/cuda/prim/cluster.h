// What the CTAs of a cluster read of each other, and sums within a warp that they search by.
#pragma once

#include <cstdint>

#include "kernels/cuda/prim/barrier.h"

namespace fathom::cuda {

// cluster_sync for warps whose lanes may have diverged: the barrier needs whole warps.
__device__ __forceinline__ void meet_cluster() {
  __syncwarp();
  cluster_sync();
}

// What lies at p in the shared memory of CTA `rank` of the cluster.
__device__ __forceinline__ uint32_t load_remote(const uint32_t* p, uint32_t rank) {
  uint32_t v;
  asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(v) : "r"(cluster_address(p, rank)));
  return v;
}
__device__ __forceinline__ uint64_t load_remote(const uint64_t* p, uint32_t rank) {
  uint64_t v;
  asm volatile("ld.shared::cluster.u64 %0, [%1];" : "=l"(v) : "r"(cluster_address(p, rank)));
  return v;
}

// Inclusive sum over this lane and the higher ones.
template <class T>
__device__ __forceinline__ T suffix_sum(T v, int lane) {
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const T other = __shfl_down_sync(~0u, v, d);
    if (lane + d < 32) v += other;
  }
  return v;
}

}  // namespace fathom::cuda
