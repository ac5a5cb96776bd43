// Powers of two for softmax weights.
#pragma once

namespace fathom::cuda {

// 2^x in one instruction; results below 2^-126 are 0, where exp2f scales argument and result to
// keep them. Beside the weight of the greatest score, which is 1, they count for nothing.
__device__ __forceinline__ float exp2_weight(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace fathom::cuda
