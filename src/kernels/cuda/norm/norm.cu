#include "kernels/cuda/norm/norm.h"

#include "kernels/cuda/norm/norm_row.cuh"

namespace fathom::cuda {
namespace {

// RMS norm of one row a CTA, optionally after adding it to the residual stream, optionally with the
// FP8 form of the result: NormRow does all but the loads.
template <int kVectors>
__global__ void __launch_bounds__(kVectors <= 2 ? 512 : 1024) rms_norm_kernel(RmsNormParams p) {
  NormRow<kVectors> norm;
  norm.load_gain(p);  // a weight, so it may come before the wait
  pdl_wait();
  pdl_trigger();
  const int64_t row = blockIdx.x;
  uint4 value[kVectors];
  load_row(p.x + row * p.x_stride, p.n, value);
  norm.load_residual(p, row);
  norm.run(p, row, value);
}

constexpr int kQuantiseThreads = 256, kQuantiseVectors = 2;

// Codes and scales of bf16 rows, over all groups in one sequence: 16 lanes take a group of any row.
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

void check_norm(const RmsNormParams& p) {
  require(p.n > 0 && p.n % kLaneValues == 0 && p.n <= kMaxNormWidth,
          "norm of a width that is no multiple of 8 or above 32768");
  require(p.x_stride % kLaneValues == 0 && p.out_stride % kLaneValues == 0 &&
              p.residual_stride % kLaneValues == 0,
          "norm of rows whose stride is no multiple of 8");
  if (p.codes.codes != nullptr) check_codes(p.codes, p.rows, p.n);
}

void rms_norm(const RmsNormParams& p, const Launch& l) {
  if (p.rows == 0) return;
  check_norm(p);
  const int each = norm_vectors(p.n), threads = norm_threads(p.n);
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
