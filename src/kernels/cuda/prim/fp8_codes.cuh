// Codes of values whose group's scale is known: numerics/fp8.h bit for bit.
#pragma once

#include <cuda_fp8.h>

#include <cstdint>

#include "numerics/fp8.h"

namespace fathom::cuda {

// 1 / scale where that is exact, i.e. for powers of two, by mirroring the exponent; 0 says "divide"
// (other scales, and the infinite scale of a group that holds an infinity).
__device__ __forceinline__ float exact_inverse(float scale, bool ue8m0) {
  return ue8m0 && scale < 0x1p126f ? float_of((254u << 23) - bits_of(scale)) : 0.0f;
}

// Two codes, the first in the lower byte. cvt.rn.satfinite rounds to nearest even and saturates at
// +-448, like float_to_fp8 after the clamp of quantise().
__device__ __forceinline__ uint32_t code_pair(float a, float b, float scale, float inverse) {
  const float2 q = inverse != 0.0f ? float2{__fmul_rn(a, inverse), __fmul_rn(b, inverse)}
                                   : float2{__fdiv_rn(a, scale), __fdiv_rn(b, scale)};
  return __nv_cvt_float2_to_fp8x2(q, __NV_SATFINITE, __NV_E4M3);
}

}  // namespace fathom::cuda
