// The FP8 form of a bf16 product's results, straight from the accumulators: of tiles that hold all
// 128 columns of a group.
#pragma once

#include "kernels/cuda/gemm/bf16_epilogue.cuh"
#include "kernels/cuda/prim/fp8_codes.cuh"

namespace fathom::cuda {

__device__ __forceinline__ float2 unpack_bf16(uint32_t pair) {
  return {float_of(pair << 16), float_of(pair & 0xFFFF0000u)};
}

// Tokens on the M side: this warp holds 16 tokens from t.row0 on and the whole group. Two of them,
// row and row + 8, are held by four neighbouring lanes. As in store_tokens_m the 16-byte pieces of
// a staged row are permuted by the row's number.
__device__ __forceinline__ void store_codes_tokens_m(const float (&d)[64], uint32_t staging,
                                                     const CodedOut& out, const Bf16Target& t) {
  const int lane = threadIdx.x % 32, row = lane / 4;
  float scale[2], inverse[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float top = 0.0f;  // fmaxf passes over NaN, as the rule does
#pragma unroll
    for (int j = 0; j < 16; ++j)
      top = fmaxf(top, fmaxf(fabsf(d[4 * j + 2 * half]), fabsf(d[4 * j + 2 * half + 1])));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
    // Rounding keeps order, so the greatest rounded value is the greatest one rounded.
    scale[half] = group_scale(unpack_bf16(pack_bf16(top, 0.0f)).x, out.ue8m0);
    inverse[half] = exact_inverse(scale[half], out.ue8m0);
    const int token = t.row0 + row + 8 * half;
    if (lane % 4 == 0 && token < t.row_limit)
      out.scales[t.batch * out.scale_stride + token] = scale[half];
  }
  __syncwarp();  // what was staged before has been read
#pragma unroll
  for (int j = 0; j < 16; ++j)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 v = unpack_bf16(pack_bf16(d[4 * j + 2 * half], d[4 * j + 2 * half + 1]));
      const uint32_t to =
          staging + (row + 8 * half) * 128 + ((j / 2) ^ row) * 16 + j % 2 * 8 + lane % 4 * 2;
      asm volatile("st.shared.u16 [%0], %1;" ::"r"(to),
                   "h"(static_cast<uint16_t>(code_pair(v.x, v.y, scale[half], inverse[half])))
                   : "memory");
    }
  __syncwarp();
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int r = k * 4 + lane / 8, piece = lane % 8;
    const uint4 v = load_shared(staging + r * 128 + ((piece ^ (r & 7)) * 16));
    if (t.row0 + r < t.row_limit)
      *reinterpret_cast<uint4*>(out.codes + (t.row0 + r) * out.stride + t.batch * 128 +
                                piece * 16) = v;
  }
}

// Weights on the M side: each of the CTA's 8 warps holds 16 columns for kN tokens from t.row0 on.
// They meet in `staging`, that of all warps; then a warp takes a token, and a lane four columns.
template <int kN>
__device__ __forceinline__ void store_codes_weights_m(const float (&d)[kN / 2], uint32_t staging,
                                                      const CodedOut& out, const Bf16Target& t) {
  constexpr int kWarps = 8;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  __syncwarp();  // what was staged before has been read
  stage_weights_m<kN>(d, staging + warp * (kN * 32));
  named_sync(1, kWarps * 32);
  for (int r = warp; r < kN && t.row0 + r < t.row_limit; r += kWarps) {
    uint32_t low, high;
    asm volatile(
        "ld.shared.v2.u32 {%0, %1}, [%2];"
        : "=r"(low), "=r"(high)
        : "r"(staging + lane / 4 * (kN * 32) + staged_weights_m(r, lane % 4 / 2) + lane % 2 * 8)
        : "memory");
    const float2 a = unpack_bf16(low), b = unpack_bf16(high);
    float top = fmaxf(fmaxf(fabsf(a.x), fabsf(a.y)), fmaxf(fabsf(b.x), fabsf(b.y)));
    top = fmaxf(top, 0.0f);  // of four NaN
#pragma unroll
    for (int d = 16; d > 0; d /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
    const float scale = group_scale(top, out.ue8m0), inverse = exact_inverse(scale, out.ue8m0);
    const int64_t token = t.row0 + r;
    *reinterpret_cast<uint32_t*>(out.codes + token * out.stride + t.batch * 128 + lane * 4) =
        code_pair(a.x, a.y, scale, inverse) | code_pair(b.x, b.y, scale, inverse) << 16;
    if (lane == 0) out.scales[t.batch * out.scale_stride + token] = scale;
  }
  named_sync(1, kWarps * 32);  // before the next tile is staged
}

}  // namespace fathom::cuda
