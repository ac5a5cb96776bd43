// RMS norms and the quantisation of activations, one row of bf16 at a time.
#pragma once

#include <cstdint>

#include "kernels/cuda/prim/launch.h"
#include "numerics/bf16.h"

namespace fathom::cuda {

// Where the FP8 form of rows goes (numerics/fp8.h): codes [rows, n] without gaps, scales
// group-major: scales[g * scale_stride + row] for the g-th 128 values. Null codes: not wanted.
struct CodesOut {
  uint8_t* codes = nullptr;
  float* scales = nullptr;
  int64_t scale_stride = 0;  // >= rows, a multiple of 4
  bool ue8m0 = true;
};

struct RmsNormParams {
  const Bf16* x = nullptr;      // [rows, n]
  Bf16* residual = nullptr;     // [rows, n] or null; then residual += x (rounded) is what is normed
  Bf16* out = nullptr;          // [rows, n], may be x
  const float* gain = nullptr;  // [n]
  CodesOut codes;               // of the rounded result; needs n % 128 == 0
  int rows = 0, n = 0;          // n a multiple of 8, at most kMaxNormWidth
  int64_t x_stride = 0, residual_stride = 0, out_stride = 0;  // elements, multiples of 8
  float eps = 0;
};
inline constexpr int kMaxNormWidth = 32768;

// out = gain * v / rms(v), v = x or the new residual.
void rms_norm(const RmsNormParams& p, const Launch& l);

// For kernels that end in the same norm (norm_row.cuh): throws Error for rows it cannot take, and
// how a CTA shares a row: vectors of 8 values a thread, and threads. By the width alone, as the
// order of the sum of squares follows from them.
void check_norm(const RmsNormParams& p);
constexpr int norm_vectors(int n) { return n <= 2048 ? 1 : n <= 8192 ? 2 : 4; }
constexpr int norm_threads(int n) {
  const int vectors = n / 8, each = norm_vectors(n);
  return ((vectors + each - 1) / each + 31) / 32 * 32;
}

struct QuantiseParams {
  const Bf16* x = nullptr;  // [rows, n]
  CodesOut codes;
  int rows = 0, n = 0;   // n a multiple of 128
  int64_t x_stride = 0;  // elements, a multiple of 8
};
void quantise_rows(const QuantiseParams& p, const Launch& l);

}  // namespace fathom::cuda
