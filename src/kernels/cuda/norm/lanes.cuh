// Eight bf16 values a lane: the loads, roundings and group quantisation every row kernel shares.
// The rules are those of numerics/; conversions are the hardware's where it rounds the same way.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/prim/fp8_codes.cuh"
#include "numerics/bf16.h"
#include "numerics/fp8.h"

namespace fathom::cuda {

inline constexpr unsigned kWarp = 0xFFFFFFFFu;
inline constexpr int kLaneValues = 8;                        // of a 16-byte vector of bf16
inline constexpr int kGroupLanes = kFp8Block / kLaneValues;  // 16 lanes hold a group of 128

__device__ __forceinline__ uint4 load_vector(const Bf16* p) {
  return *reinterpret_cast<const uint4*>(p);
}
__device__ __forceinline__ void store_vector(Bf16* p, uint4 v) { *reinterpret_cast<uint4*>(p) = v; }

__device__ __forceinline__ void unpack(uint4 raw, float (&v)[kLaneValues]) {
  const uint32_t word[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[2 * i] = float_of(word[i] << 16);
    v[2 * i + 1] = float_of(word[i] & 0xFFFF0000u);
  }
}

// Two values rounded to nearest even, the first in the lower half.
__device__ __forceinline__ uint32_t round_pair(float low, float high) {
  __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<uint32_t*>(&pair);
}
__device__ __forceinline__ uint4 pack(const float (&v)[kLaneValues]) {
  return {round_pair(v[0], v[1]), round_pair(v[2], v[3]), round_pair(v[4], v[5]),
          round_pair(v[6], v[7])};
}
__device__ __forceinline__ void round_all(float (&v)[kLaneValues]) { unpack(pack(v), v); }

__device__ __forceinline__ void load_floats(const float* p, float (&v)[kLaneValues]) {
  float4 a = reinterpret_cast<const float4*>(p)[0], b = reinterpret_cast<const float4*>(p)[1];
  v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
  v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

// Reductions over aligned groups of kLanes lanes; every lane of the warp must call.
template <int kLanes>
__device__ __forceinline__ float sum_over(float x) {
#pragma unroll
  for (int other = kLanes / 2; other > 0; other /= 2) x += __shfl_xor_sync(kWarp, x, other);
  return x;
}
template <int kLanes>
__device__ __forceinline__ float greatest_over(float x) {
#pragma unroll
  for (int other = kLanes / 2; other > 0; other /= 2)
    x = fmaxf(x, __shfl_xor_sync(kWarp, x, other));
  return x;
}

// fmaxf passes over NaN, as the rule does: a NaN stays in the codes and does not reach the scale.
__device__ __forceinline__ float greatest_magnitude(const float (&v)[kLaneValues]) {
  float top = 0.0f;
#pragma unroll
  for (int j = 0; j < kLaneValues; ++j) top = fmaxf(top, fabsf(v[j]));
  return top;
}

// Codes of eight values, in order.
__device__ __forceinline__ uint2 codes_of(const float (&v)[kLaneValues], float scale,
                                          float inverse) {
  uint32_t pair[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) pair[i] = code_pair(v[2 * i], v[2 * i + 1], scale, inverse);
  return {pair[0] | pair[1] << 16, pair[2] | pair[3] << 16};
}

// A group of 128 values over 16 lanes; every lane of the warp must call.
__device__ __forceinline__ uint2 quantise_group(const float (&v)[kLaneValues], bool ue8m0,
                                                float& scale) {
  scale = group_scale(greatest_over<kGroupLanes>(greatest_magnitude(v)), ue8m0);
  return codes_of(v, scale, exact_inverse(scale, ue8m0));
}

// 1 / sqrt(square / n + eps), correctly rounded step by step: the approximate forms differ from the
// host's in the last bits.
__device__ __forceinline__ float inverse_rms(float square, int n, float eps) {
  float mean = __fdiv_rn(square, static_cast<float>(n));
  return __fdiv_rn(1.0f, __fsqrt_rn(mean + eps));
}

}  // namespace fathom::cuda
