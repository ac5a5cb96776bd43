// Running sums over the lanes of a warp. Every lane must call.
#pragma once

#include <cstdint>

namespace fathom::cuda {

// Inclusive sum over this lane and the lower ones.
__device__ __forceinline__ uint32_t prefix_sum(uint32_t v, int lane) {
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    uint32_t other = __shfl_up_sync(~0u, v, d);
    if (lane >= d) v += other;
  }
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
