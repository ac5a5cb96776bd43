// FP8 matrix products with block scales, for any number of rows: y = x W^T.
//
// Numerics, the same for every kernel behind this front
//   in        e4m3 codes, float32 scales: 1x128 (activations), 128x128 (weights)
//   partial   sum of 128 products along k in the tensor core
//   promotion acc = fma(partial, activation scale * weight scale, acc), float32, k ascending
//   out       rounded once to bf16, or float32 as it is
// Launch::batch_invariant: k is not split, so every kernel adds in the same order and a row has the
// same bits in a batch of 1 and of 4096. Otherwise a few rows may be summed in 2 to 8 parts along
// k, which are then added in fixed order: equal from run to run.
#pragma once

#include "kernels/cuda/gemm/operands.h"
#include "kernels/cuda/gemm/workspace.h"
#include "kernels/cuda/prim/launch.h"

namespace fathom::cuda {

inline constexpr int kMaxSegments = 4;

struct Fp8GemmParams {
  Fp8Rows a;
  Fp8Matrix b;
  // Together exactly [0, b.n), ascending; inner boundaries are multiples of 64.
  OutSegment out[kMaxSegments];
  int segments = 0;
};

// No rows: nothing is launched.
void fp8_gemm(const Fp8GemmParams& p, const Launch& l);

// One product an expert. Rows of expert e are [offsets[e], offsets[e + 1]), without padding between
// experts; rows from offsets[experts] on belong to no expert and are not written.
struct Fp8GroupedParams {
  Fp8Rows a;                         // a.rows: as many as there may be
  const uint8_t* codes = nullptr;    // [experts, n, k]
  const float* scales = nullptr;     // [experts, ceil(n / 128), k / 128]
  int experts = 0, n = 0, k = 0;     // n: a multiple of 8, k: of 128
  const int32_t* offsets = nullptr;  // [experts + 1] on the device, ascending from 0
  Bf16* out = nullptr;               // [a.rows, n]
  int64_t out_stride = 0;            // elements from row to row, a multiple of 8
  int tokens = 0;                    // of the step: no expert has more rows than that
};

void fp8_grouped_gemm(const Fp8GroupedParams& p, const Launch& l);

}  // namespace fathom::cuda
