// Values of one row of bf16, added up in float32 and rounded once.
#pragma once

#include "kernels/cuda/comm/peer_memory.cuh"
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

// value: the sum of `count` parts of a row of n values, in their order. from(part) is called once
// for each, in order, and returns where it lies; null: not in memory. arrived(part, i, v, got) is
// called before this thread's i-th vector of a part, the row's v-th, is added, with what was read
// (zeros where there was nothing to read), and may put another in its place.
template <int kVectors, class From, class Arrived>
__device__ __forceinline__ void sum_parts(int count, int n, uint4 (&value)[kVectors],
                                          const From& from, const Arrived& arrived) {
  const int vectors = n / kLaneValues;
  RowSum<kVectors> sum;
  for (int first = 0; first < count; first += kAtOnce) {
    uint4 got[kAtOnce][kVectors];
#pragma unroll
    for (int s = 0; s < kAtOnce; ++s) {
      const Bf16* row = first + s < count ? from(first + s) : nullptr;
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        const int v = static_cast<int>(threadIdx.x + i * blockDim.x);
        got[s][i] = row && v < vectors ? load_shared_vector(row + v * kLaneValues) : uint4{};
      }
    }
#pragma unroll
    for (int s = 0; s < kAtOnce; ++s)
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        const int v = static_cast<int>(threadIdx.x + i * blockDim.x);
        if (first + s >= count) continue;
        if (v < vectors) arrived(first + s, i, v, got[s][i]);
        sum.add(first + s == 0, i, got[s][i]);
      }
  }
  sum.round(value);
}

}  // namespace fathom::cuda
