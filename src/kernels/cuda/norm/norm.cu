#include "kernels/cuda/norm/norm.h"

#include "kernels/cuda/norm/lanes.cuh"

namespace fathom::cuda {
namespace {

constexpr int kMaxWarps = 32;

// RMS norm of one row a CTA, optionally after adding it to the residual stream, optionally with the
// FP8 form of the result. Thread t holds vectors t, t + threads, ..: 16 neighbours hold a group.
//
// Numerics
//   sum      residual + x in f32, rounded to bf16; that is what is stored and normed
//   squares  f32: fma along a thread's values, then a tree over lanes, then one over warps; the
//            order depends on n alone, so a row's bits do not depend on the batch
//   result   gain * (v * (1 / sqrt(mean + eps))), f32, rounded once to bf16
//   codes    of the rounded result, numerics/fp8.h bit for bit
template <int kVectors>
__global__ void __launch_bounds__(kVectors <= 2 ? 512 : 1024) rms_norm_kernel(RmsNormParams p) {
  __shared__ float warp_square[kMaxWarps];
  const int64_t row = blockIdx.x;
  const int vectors = p.n / kLaneValues, threads = static_cast<int>(blockDim.x);
  const int me = static_cast<int>(threadIdx.x);
  constexpr bool kEarlyGain = kVectors <= 2;  // more would not fit the registers
  float gain[kEarlyGain ? kVectors : 1][kLaneValues];

  // phase 1: load. The gain is a weight, so it may come before the wait.
  if constexpr (kEarlyGain)
#pragma unroll
    for (int i = 0; i < kVectors; ++i)
      if (me + i * threads < vectors)
        load_floats(p.gain + (me + i * threads) * kLaneValues, gain[i]);
  pdl_wait();
  pdl_trigger();
  uint4 value[kVectors];
  const Bf16* x = p.x + row * p.x_stride;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    int v = me + i * threads;
    value[i] = v < vectors ? load_vector(x + v * kLaneValues) : uint4{};
  }

  // phase 2: residual and squares
  if (p.residual) {
    Bf16* residual = p.residual + row * p.residual_stride;
    uint4 old[kVectors];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      int v = me + i * threads;
      old[i] = v < vectors ? load_vector(residual + v * kLaneValues) : uint4{};
    }
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      int v = me + i * threads;
      float a[kLaneValues], b[kLaneValues];
      unpack(old[i], a);
      unpack(value[i], b);
#pragma unroll
      for (int j = 0; j < kLaneValues; ++j) a[j] += b[j];
      value[i] = pack(a);
      if (v < vectors) store_vector(residual + v * kLaneValues, value[i]);
    }
  }
  float square = 0.0f;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    float v[kLaneValues];
    unpack(value[i], v);
#pragma unroll
    for (int j = 0; j < kLaneValues; ++j) square = fmaf(v[j], v[j], square);
  }
  square = sum_over<32>(square);
  if (me % 32 == 0) warp_square[me / 32] = square;
  __syncthreads();
  int warps = threads / 32, lane = me % 32;
  float inverse = inverse_rms(sum_over<32>(lane < warps ? warp_square[lane] : 0.0f), p.n, p.eps);

  // phase 3: scale, round, store; quantise
  Bf16* out = p.out + row * p.out_stride;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    int v = me + i * threads;
    float y[kLaneValues], g[kLaneValues] = {};
    if constexpr (kEarlyGain) {
#pragma unroll
      for (int j = 0; j < kLaneValues; ++j) g[j] = gain[i][j];
    } else if (v < vectors) {
      load_floats(p.gain + v * kLaneValues, g);
    }
    unpack(value[i], y);
#pragma unroll
    for (int j = 0; j < kLaneValues; ++j) y[j] = g[j] * (y[j] * inverse);
    uint4 rounded = pack(y);
    if (v < vectors) store_vector(out + v * kLaneValues, rounded);
    if (p.codes.codes == nullptr) continue;
    unpack(rounded, y);
    float scale;
    uint2 codes = quantise_group(y, p.codes.ue8m0, scale);
    if (v < vectors) {
      *reinterpret_cast<uint2*>(p.codes.codes + row * p.n + v * kLaneValues) = codes;
      if (v % kGroupLanes == 0)
        p.codes.scales[v / kGroupLanes * p.codes.scale_stride + row] = scale;
    }
  }
}

constexpr int kQuantiseThreads = 256, kQuantiseVectors = 2;

// Codes and scales of bf16 rows, flat: 16 lanes take a group, whatever its row.
__global__ void __launch_bounds__(kQuantiseThreads) quantise_kernel(QuantiseParams p) {
  const unsigned per_row = static_cast<unsigned>(p.n / kLaneValues);
  const unsigned total = static_cast<unsigned>(p.rows) * per_row;
  const unsigned first = blockIdx.x * (kQuantiseThreads * kQuantiseVectors) + threadIdx.x;
  pdl_wait();
  pdl_trigger();
  uint4 value[kQuantiseVectors];
  int row[kQuantiseVectors], v[kQuantiseVectors];
#pragma unroll
  for (int i = 0; i < kQuantiseVectors; ++i) {
    unsigned at = first + i * kQuantiseThreads;
    row[i] = static_cast<int>(at / per_row);
    v[i] = static_cast<int>(at % per_row);
    value[i] = at < total ? load_vector(p.x + row[i] * p.x_stride + v[i] * kLaneValues) : uint4{};
  }
#pragma unroll
  for (int i = 0; i < kQuantiseVectors; ++i) {
    float x[kLaneValues], scale;
    unpack(value[i], x);
    uint2 codes = quantise_group(x, p.codes.ue8m0, scale);
    if (first + i * kQuantiseThreads >= total) continue;
    *reinterpret_cast<uint2*>(p.codes.codes + int64_t{row[i]} * p.n + v[i] * kLaneValues) = codes;
    if (v[i] % kGroupLanes == 0)
      p.codes.scales[v[i] / kGroupLanes * p.codes.scale_stride + row[i]] = scale;
  }
}

void check_codes(const CodesOut& c, int rows, int n) {
  require(n % kFp8Block == 0, "FP8 rows of a width that is no multiple of 128");
  require(c.scales != nullptr && c.scale_stride >= rows && c.scale_stride % 4 == 0,
          "FP8 rows whose scale stride is below the rows or no multiple of 4");
}

}  // namespace

void rms_norm(const RmsNormParams& p, const Launch& l) {
  if (p.rows == 0) return;
  require(p.n > 0 && p.n % kLaneValues == 0 && p.n <= kMaxNormWidth,
          "norm of a width that is no multiple of 8 or above 32768");
  require(p.x_stride % kLaneValues == 0 && p.out_stride % kLaneValues == 0 &&
              p.residual_stride % kLaneValues == 0,
          "norm of rows whose stride is no multiple of 8");
  if (p.codes.codes != nullptr) check_codes(p.codes, p.rows, p.n);
  const int vectors = p.n / kLaneValues;
  // By the width alone: the order of the sum follows from it.
  const int each = vectors <= 256 ? 1 : vectors <= 1024 ? 2 : 4;
  const int threads = ((vectors + each - 1) / each + 31) / 32 * 32;
  auto kernel = each == 1   ? rms_norm_kernel<1>
                : each == 2 ? rms_norm_kernel<2>
                            : rms_norm_kernel<4>;
  launch_kernel(l, kernel, dim3(p.rows), dim3(threads), 0, 1, p);
}

void quantise_rows(const QuantiseParams& p, const Launch& l) {
  if (p.rows == 0) return;
  require(p.n > 0 && p.x_stride % kLaneValues == 0,
          "quantisation of empty rows or of a stride that is no multiple of 8");
  check_codes(p.codes, p.rows, p.n);
  int64_t vectors = int64_t{p.rows} * (p.n / kLaneValues);
  int64_t per_block = kQuantiseThreads * kQuantiseVectors;
  require(vectors < INT32_MAX, "more values to quantise than 32 bits count");
  launch_kernel(l, quantise_kernel,
                dim3(static_cast<unsigned>((vectors + per_block - 1) / per_block)),
                dim3(kQuantiseThreads), 0, 1, p);
}

}  // namespace fathom::cuda
