// The one rule by which a slice of 128 along k enters the float32 sum: every FP8 product uses it,
// so that kernels with different tiles agree bit for bit.
#pragma once

namespace fathom::cuda {

#if defined(__CUDACC__)
// `scale` = activation scale * weight scale, rounded to float32 (exact for powers of two).
__device__ __forceinline__ float promote(float sum, float partial, float scale) {
  return __fmaf_rn(partial, scale, sum);
}
__device__ __forceinline__ float block_scale(float activation, float weight) {
  return __fmul_rn(activation, weight);
}
#endif

}  // namespace fathom::cuda
