// Values of one row of bf16, added up in float32 and rounded once.
#pragma once

#include "kernels/cuda/norm/lanes.cuh"

namespace fathom::cuda {

inline constexpr int kAtOnce = 4;  // parts of a sum that are asked for before the first is used

// A thread's vectors of a row, in the order in which parts are added.
template <int kVectors>
class RowSum {
 public:
  __device__ __forceinline__ void add(bool first, int i, uint4 v) {
    float x[kLaneValues];
    unpack(v, x);
#pragma unroll
    for (int j = 0; j < kLaneValues; ++j) sum_[i][j] = first ? x[j] : sum_[i][j] + x[j];
  }
  __device__ __forceinline__ void round(uint4 (&out)[kVectors]) const {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) out[i] = pack(sum_[i]);
  }

 private:
  float sum_[kVectors][kLaneValues];
};

}  // namespace fathom::cuda
