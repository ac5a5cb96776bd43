// One row's residual sum, RMS norm and FP8 form, by one CTA: shared by every kernel that ends in a
// norm, so that all of them give the same bits.
#pragma once

#include "kernels/cuda/norm/lanes.cuh"
#include "kernels/cuda/norm/norm.h"

namespace fathom::cuda {

// Thread t of a CTA holds vectors t, t + threads, ..: 16 neighbours hold a group of 128. The CTA
// has norm_threads(n) threads and kVectors is norm_vectors(n).
template <int kVectors>
__device__ __forceinline__ void load_row(const Bf16* row, int n, uint4 (&value)[kVectors]) {
  const int vectors = n / kLaneValues;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int v = static_cast<int>(threadIdx.x + i * blockDim.x);
    value[i] = v < vectors ? load_vector(row + v * kLaneValues) : uint4{};
  }
}
template <int kVectors>
__device__ __forceinline__ void store_row(Bf16* row, int n, const uint4 (&value)[kVectors]) {
  const int vectors = n / kLaneValues;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int v = static_cast<int>(threadIdx.x + i * blockDim.x);
    if (v < vectors) store_vector(row + v * kLaneValues, value[i]);
  }
}

// Numerics
//   sum      residual + x in f32, rounded to bf16; that is what is stored and normed
//   squares  f32: fma along a thread's values, then a tree over lanes, then one over warps; the
//            order depends on n alone, so a row's bits do not depend on the batch
//   result   gain * (v * (1 / sqrt(mean + eps))), f32, rounded once to bf16
//   codes    of the rounded result, numerics/fp8.h bit for bit
template <int kVectors, bool kEarlyGain = kVectors <= 2>
class NormRow {
 public:
  // May be called in front of pdl_wait(). A thread without registers to spare, as that of a wide
  // row, loads the gain where it is used.
  __device__ __forceinline__ void load_gain(const RmsNormParams& p) {
    if constexpr (kEarlyGain)
#pragma unroll
      for (int i = 0; i < kVectors; ++i)
        if (vector(i) < p.n / kLaneValues) load_floats(p.gain + vector(i) * kLaneValues, gain_[i]);
  }

  // The row of the residual stream, where there is one: before run(), and early, so that it is on
  // its way while a kernel waits for x.
  __device__ __forceinline__ void load_residual(const RmsNormParams& p, int64_t row) {
    if (p.residual) load_row(p.residual + row * p.residual_stride, p.n, residual_);
  }

  // `value` holds the row of x. Every thread of the CTA calls; between two calls lies a barrier.
  __device__ __forceinline__ void run(const RmsNormParams& p, int64_t row,
                                      uint4 (&value)[kVectors]) const {
    if (p.residual) add(p.residual + row * p.residual_stride, p.n, value);
    const float inverse = inverse_rms(sum_of_squares(value), p.n, p.eps);
    store(p, row, value, inverse);
  }

 private:
  static constexpr int kMaxWarps = 32;

  static __device__ __forceinline__ int vector(int i) {
    return static_cast<int>(threadIdx.x + i * blockDim.x);
  }

  __device__ __forceinline__ void add(Bf16* residual, int n, uint4 (&value)[kVectors]) const {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      float a[kLaneValues], b[kLaneValues];
      unpack(residual_[i], a);
      unpack(value[i], b);
#pragma unroll
      for (int j = 0; j < kLaneValues; ++j) a[j] += b[j];
      value[i] = pack(a);
    }
    store_row(residual, n, value);
  }

  static __device__ __forceinline__ float sum_of_squares(const uint4 (&value)[kVectors]) {
    __shared__ float warp_square[kMaxWarps];
    float square = 0.0f;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      float v[kLaneValues];
      unpack(value[i], v);
#pragma unroll
      for (int j = 0; j < kLaneValues; ++j) square = fmaf(v[j], v[j], square);
    }
    square = sum_over<32>(square);
    const int warps = static_cast<int>(blockDim.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    if (lane == 0) warp_square[threadIdx.x / 32] = square;
    __syncthreads();
    return sum_over<32>(lane < warps ? warp_square[lane] : 0.0f);
  }

  __device__ __forceinline__ void store(const RmsNormParams& p, int64_t row,
                                        const uint4 (&value)[kVectors], float inverse) const {
    Bf16* out = p.out + row * p.out_stride;
    const int vectors = p.n / kLaneValues;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int v = vector(i);
      float y[kLaneValues], g[kLaneValues] = {};
      if constexpr (kEarlyGain) {
#pragma unroll
        for (int j = 0; j < kLaneValues; ++j) g[j] = gain_[i][j];
      } else if (v < vectors) {
        load_floats(p.gain + v * kLaneValues, g);
      }
      unpack(value[i], y);
#pragma unroll
      for (int j = 0; j < kLaneValues; ++j) y[j] = g[j] * (y[j] * inverse);
      const uint4 rounded = pack(y);
      if (v < vectors) store_vector(out + v * kLaneValues, rounded);
      if (p.codes.codes == nullptr) continue;
      unpack(rounded, y);
      float scale;
      const uint2 codes = quantise_group(y, p.codes.ue8m0, scale);
      if (v < vectors) {
        *reinterpret_cast<uint2*>(p.codes.codes + row * p.n + v * kLaneValues) = codes;
        if (v % kGroupLanes == 0)
          p.codes.scales[v / kGroupLanes * p.codes.scale_stride + row] = scale;
      }
    }
  }

  float gain_[kEarlyGain ? kVectors : 1][kLaneValues];
  uint4 residual_[kVectors];
};

}  // namespace fathom::cuda
