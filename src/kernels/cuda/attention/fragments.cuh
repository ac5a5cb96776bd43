// Accumulators of a 64-row wgmma tile on their way to bf16: as the A operand of the next product,
// or into a swizzled tile of shared memory. And the row-wise arithmetic of an online softmax.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/prim/barrier.h"

namespace fathom::cuda {

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  __nv_bfloat162 two = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<uint32_t*>(&two);
}

// Accumulators of columns [16 group, 16 group + 16) as an A fragment.
template <int kCount>
__device__ __forceinline__ void pack_fragment(uint32_t (&a)[4], const float (&d)[kCount],
                                              int group) {
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = pack_bf16(d[8 * group + 2 * i], d[8 * group + 2 * i + 1]);
}

// The fragment into columns [16 group, 16 group + 16) of a tile of 64 bf16 columns with the
// 128-byte swizzle, rows [first_row, first_row + 16) of this warp.
__device__ __forceinline__ void store_fragment(uint8_t* tile, const uint32_t (&a)[4], int group,
                                               int first_row, int lane) {
  int row = first_row + lane % 16, chunk = 2 * group + lane / 16;
  uint32_t to = smem_address(tile) + row * 128 + ((chunk ^ (row % 8)) << 4);
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to),
               "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])
               : "memory");
}

// Over the four threads that share a row of accumulators.
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

template <int kCount>
__device__ __forceinline__ void scale_rows(float (&d)[kCount], float top, float bottom) {
#pragma unroll
  for (int j = 0; j < kCount / 4; ++j) {
    d[4 * j] *= top;
    d[4 * j + 1] *= top;
    d[4 * j + 2] *= bottom;
    d[4 * j + 3] *= bottom;
  }
}

// exp2 of the difference of two maxima. If no key was seen before (-inf), earlier sums have weight
// 0.
__device__ __forceinline__ float decay(float before, float after, float scale) {
  return before == -INFINITY ? 0.f : exp2f((before - after) * scale);
}

// One arrival for the warp, after all of its threads have come here.
__device__ __forceinline__ void arrive_warp(uint64_t* bar, int lane) {
  __syncwarp();
  if (lane == 0) barrier_arrive(bar);
}

}  // namespace fathom::cuda
