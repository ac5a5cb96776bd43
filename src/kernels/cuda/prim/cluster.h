// What the CTAs of a cluster read of each other.
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

}  // namespace fathom::cuda
