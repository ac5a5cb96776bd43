// Launches of the prefill kernel, and the kernel that turns fp8 cache rows into bf16 ones.
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "kernels/cuda/attention/mla_prefill_kernel.cuh"

namespace fathom::cuda::prefill {
namespace {

constexpr int kRowThreads = 256, kRowsPerWarp = 4;
constexpr int kRowsPerBlock = kRowThreads / 32 * kRowsPerWarp;

// Two e4m3 codes times a scale, rounded to bf16: exact when the scale is a power of two.
__device__ __forceinline__ uint32_t two_values(uint16_t codes, float scale) {
  __half2_raw raw = __nv_cvt_fp8x2_to_halfraw2(codes, __NV_E4M3);
  float2 v = __half22float2(__half2(raw));
  return pack_bf16(v.x * scale, v.y * scale);
}

// One warp a row: a lane takes 16 codes, eight lanes the rotary part.
__global__ void __launch_bounds__(kRowThreads)
    dequantise_rows_kernel(const __grid_constant__ DequantiseArgs a) {
  pdl_wait();
  pdl_trigger();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t first = int64_t{blockIdx.x} * kRowsPerBlock + warp * kRowsPerWarp;
  if (first >= a.base[a.count]) return;
  int span = 0;  // of all the warp's rows: spans begin at multiples of a page
  while (first >= a.base[span + 1]) ++span;
  const int64_t last = a.base[span] + a.context[span];
  const int32_t* table = a.page_tables + int64_t{a.sequence[span]} * a.max_pages;
  uint4 codes[kRowsPerWarp], rope[kRowsPerWarp];
  float scale[kRowsPerWarp];
#pragma unroll
  for (int i = 0; i < kRowsPerWarp; ++i) {
    int64_t row = first + i;
    if (row >= last) break;
    const std::byte* from =
        a.rows + row_of(table, row - a.base[span]) * int64_t{sizeof(LatentRowFp8)};
    codes[i] = reinterpret_cast<const uint4*>(from)[lane];
    scale[i] = reinterpret_cast<const float*>(from + offsetof(LatentRowFp8, scale))[lane / 8];
    if (lane < 8)
      rope[i] = reinterpret_cast<const uint4*>(from + offsetof(LatentRowFp8, rope))[lane];
  }
#pragma unroll
  for (int i = 0; i < kRowsPerWarp; ++i) {
    int64_t row = first + i;
    if (row >= last) break;
    uint4* to = reinterpret_cast<uint4*>(a.out + row * kRowBytes);
    const uint32_t words[4] = {codes[i].x, codes[i].y, codes[i].z, codes[i].w};
    uint32_t out[8];
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      out[2 * w] = two_values(static_cast<uint16_t>(words[w]), scale[i]);
      out[2 * w + 1] = two_values(static_cast<uint16_t>(words[w] >> 16), scale[i]);
    }
    to[2 * lane] = make_uint4(out[0], out[1], out[2], out[3]);
    to[2 * lane + 1] = make_uint4(out[4], out[5], out[6], out[7]);
    if (lane < 8) to[64 + lane] = rope[i];
  }
}

}  // namespace

void launch_prefill(const PrefillArgs& a, int tokens, const Launch& l) {
  unsigned blocks =
      static_cast<unsigned>(tokens) * static_cast<unsigned>((a.heads + kHeads - 1) / kHeads);
  launch_kernel(l, mla_prefill_kernel, dim3(blocks), dim3(kThreads), sizeof(Shared), 1, a);
}

void launch_dequantise(const DequantiseArgs& a, const Launch& l) {
  int64_t blocks = (a.base[a.count] + kRowsPerBlock - 1) / kRowsPerBlock;
  launch_kernel(l, dequantise_rows_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kRowThreads),
                0, 1, a);
}

}  // namespace fathom::cuda::prefill
