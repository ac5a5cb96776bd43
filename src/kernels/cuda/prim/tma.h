// Tensor maps (host) and bulk copies between global and shared memory (device).
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#if defined(__CUDACC__)
#include "kernels/cuda/prim/barrier.h"
#endif

namespace fathom::cuda {

enum class MapType : uint8_t { u8, bf16, f32 };  // e4m3 codes travel as u8

// A tensor of up to 4 dims as the copy engine sees it, innermost dim first. What a box reaches
// outside the tensor arrives as zeros and is never written.
struct MapShape {
  const void* base = nullptr;  // 16-byte aligned
  MapType type = MapType::u8;
  int rank = 2;
  uint64_t dims[4] = {1, 1, 1, 1};
  uint64_t strides[3] = {};  // bytes between indices of dims 1.., multiples of 16
  uint32_t box[4] = {1, 1, 1, 1};
  int swizzle = 128;  // bytes: 0, 32, 64 or 128; box[0] spans at most that many
};

// Throws Error with the shape when the driver refuses it. Cheap (no device call), thread-safe.
CUtensorMap make_tensor_map(const MapShape& shape);

// [rows, cols] row-major with `stride` bytes between rows, boxes of box_rows x box_cols.
CUtensorMap make_matrix_map(const void* base, MapType type, uint64_t rows, uint64_t cols,
                            uint64_t stride, uint32_t box_rows, uint32_t box_cols,
                            int swizzle = 128);

#if defined(__CUDACC__)
// L2 cache policies as the copy instructions take them (createpolicy results, as constants).
inline constexpr uint64_t kEvictFirst = 0x12F0000000000000ull;
inline constexpr uint64_t kEvictNormal = 0x1000000000000000ull;
inline constexpr uint64_t kEvictLast = 0x14F0000000000000ull;

__device__ __forceinline__ void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Box at coordinates (c0 innermost) into shared memory; its bytes count towards `bar`.
__device__ __forceinline__ void load_box(void* to, const CUtensorMap* map, uint64_t* bar, int c0,
                                         int c1, uint64_t policy = kEvictNormal) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(smem_address(to)),
      "l"(map), "r"(smem_address(bar)), "r"(c0), "r"(c1), "l"(policy)
      : "memory");
}

__device__ __forceinline__ void load_box(void* to, const CUtensorMap* map, uint64_t* bar, int c0,
                                         int c1, int c2, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(smem_address(to)),
      "l"(map), "r"(smem_address(bar)), "r"(c0), "r"(c1), "r"(c2), "l"(policy)
      : "memory");
}

// The same box into the same place of every CTA of the cluster named by `mask`; each one's own
// barrier counts its bytes.
__device__ __forceinline__ void load_box_multicast(void* to, const CUtensorMap* map, uint64_t* bar,
                                                   uint16_t mask, int c0, int c1,
                                                   uint64_t policy = kEvictNormal) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster.L2::cache_hint [%0], [%1, {%4, %5}], [%2], %3, %6;" ::"r"(
          smem_address(to)),
      "l"(map), "r"(smem_address(bar)), "h"(mask), "r"(c0), "r"(c1), "l"(policy)
      : "memory");
}

__device__ __forceinline__ void load_box_multicast(void* to, const CUtensorMap* map, uint64_t* bar,
                                                   uint16_t mask, int c0, int c1, int c2,
                                                   uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster.L2::cache_hint [%0], [%1, {%4, %5, %6}], [%2], %3, %7;" ::"r"(
          smem_address(to)),
      "l"(map), "r"(smem_address(bar)), "h"(mask), "r"(c0), "r"(c1), "r"(c2), "l"(policy)
      : "memory");
}

// `bytes` (multiple of 16) of contiguous memory.
__device__ __forceinline__ void load_bulk(void* to, const void* from, uint32_t bytes,
                                          uint64_t* bar) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(smem_address(to)),
      "l"(from), "r"(bytes), "r"(smem_address(bar))
      : "memory");
}

// Shared memory to a box of global memory; rows and columns outside the tensor are not written.
__device__ __forceinline__ void store_box(const CUtensorMap* map, const void* from, int c0,
                                          int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
      "r"(smem_address(from)), "r"(c0), "r"(c1)
      : "memory");
}
__device__ __forceinline__ void store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Until at most kPending groups of this thread still read shared memory.
template <int kPending>
__device__ __forceinline__ void store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
#endif

}  // namespace fathom::cuda
