// Warpgroup matrix multiply (PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions"):
// D[64, N] (float32, registers) += A[64, K] B[K, N], issued by the 128 threads of a warpgroup.
//
// Accumulator layout: thread t of the warpgroup holds, for j = 0 .. N/8 - 1,
//   d[4 j + 0], d[4 j + 1]   row (t / 32) * 16 + (t % 32) / 4,      columns 8 j + (t % 4) * 2, + 1
//   d[4 j + 2], d[4 j + 3]   that row + 8,                          the same columns
// The A fragment of the register form has the same layout over K = 16: a[0] (row, k 0..7), a[1]
// (row + 8, k 0..7), a[2] (row, k 8..15), a[3] (row + 8, k 8..15), two bf16 in each.
#pragma once

#include <cstdint>

#include "kernels/cuda/prim/barrier.h"
#include "kernels/cuda/prim/wgmma_shapes.h"

namespace fathom::cuda {

// Orders register and shared-memory accesses before the wgmmas that follow.
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most kPending committed groups are unfinished.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps the compiler from moving reads or writes of accumulators across a fence or a wait.
template <int kCount>
__device__ __forceinline__ void pin_registers(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// Describes an operand tile in shared memory. Byte counts; the tile starts at a multiple of 1024
// for the 128-byte swizzle. K-major with that swizzle: rows of 128 bytes, `stride` = 1024 from one
// group of 8 rows to the next, `leading` unused; step along K by adding bytes to `address`.
__device__ __forceinline__ uint64_t smem_descriptor(uint32_t address, uint32_t leading,
                                                    uint32_t stride, int swizzle) {
  uint64_t mode = swizzle == 128 ? 1 : swizzle == 64 ? 2 : swizzle == 32 ? 3 : 0;
  return static_cast<uint64_t>((address & 0x3FFFF) >> 4) |
         static_cast<uint64_t>((leading & 0x3FFFF) >> 4) << 16 |
         static_cast<uint64_t>((stride & 0x3FFFF) >> 4) << 32 | mode << 62;
}
__device__ __forceinline__ uint64_t k_major_descriptor(const void* tile, int byte_offset = 0) {
  return smem_descriptor(smem_address(tile) + static_cast<uint32_t>(byte_offset), 16, 1024, 128);
}

// e4m3, K = 32: d (+)= A B; with accumulate = 0 d is overwritten. Both operands K-major.
template <int kN>
__device__ __forceinline__ void wgmma_fp8(float (&d)[kN / 2], uint64_t a, uint64_t b,
                                          int accumulate) {
  WgmmaFp8<kN>::run(d, a, b, accumulate);
}

// bf16, K = 16.
template <int kN, int kTransposeA = 0, int kTransposeB = 0>
__device__ __forceinline__ void wgmma_bf16(float (&d)[kN / 2], uint64_t a, uint64_t b,
                                           int accumulate) {
  WgmmaBf16<kN, kTransposeA, kTransposeB>::run(d, a, b, accumulate);
}
template <int kN, int kTransposeB = 0>
__device__ __forceinline__ void wgmma_bf16(float (&d)[kN / 2], const uint32_t (&a)[4], uint64_t b,
                                           int accumulate) {
  WgmmaBf16Registers<kN, kTransposeB>::run(d, a, b, accumulate);
}

}  // namespace fathom::cuda
