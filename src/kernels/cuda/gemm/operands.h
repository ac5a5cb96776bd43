// Operands of the FP8 products as they lie in device memory. Non-owning.
#pragma once

#include <cstdint>

#include "numerics/bf16.h"

namespace fathom::cuda {

// Quantised activations: value = code * scale of its group of 128 along k. Scales lie group by
// group, so that one slice of K finds the scales of neighbouring rows next to each other.
struct Fp8Rows {
  const uint8_t* codes = nullptr;  // [rows, k] row-major e4m3, 16-byte aligned
  const float* scales = nullptr;   // scales[(k / 128) * scale_stride + row], 16-byte aligned
  int rows = 0, k = 0;             // k: a multiple of 128
  int64_t scale_stride = 0;        // >= rows, a multiple of 4
};

// Weights, applied as y = x W^T: value = code * scale of its 128x128 block.
struct Fp8Matrix {
  const uint8_t* codes = nullptr;  // [n, k] row-major e4m3, 16-byte aligned
  const float* scales = nullptr;   // [ceil(n / 128), scale_stride]
  int n = 0, k = 0;                // n: a multiple of 8, k: a multiple of 128
  int64_t scale_stride = 0;        // = k / 128
};

// Where columns [n_begin, n_end) of a product go: column n of row r to
// data[r * stride + n - n_begin], bf16 or, unrounded, float32.
struct OutSegment {
  void* data = nullptr;  // 16-byte aligned
  int64_t stride = 0;    // elements from row to row, a multiple of 8
  int n_begin = 0, n_end = 0;
  bool f32 = false;
};

}  // namespace fathom::cuda
