// bf16 products out = A B^T with float32 accumulation: every matrix product that is not FP8, i.e.
// the absorbed key and value projections, router and indexer head weights, the output head, and all
// projections and experts under bf16 numerics.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/gemm/operands.h"
#include "kernels/cuda/prim/launch.h"
#include "numerics/bf16.h"

namespace fathom::cuda {

// Where the FP8 form of a product's results goes, rounded to bf16 first: of 128 columns of a batch,
// group `batch` of each row. Null codes: it is not wanted.
struct CodedOut {
  uint8_t* codes = nullptr;  // 16-byte aligned
  float* scales = nullptr;   // scales[batch * scale_stride + row]
  int64_t stride = 0;        // bytes from row to row, a multiple of 16
  int64_t scale_stride = 0;
  bool ue8m0 = true;
};

// For each i of the batch: out_i[t, j] = sum_l a_i[t, l] b_i[j, l].
// k is a multiple of 8; a and b are 16-byte aligned and their strides are multiples of 8 elements.
struct Bf16GemmParams {
  const Bf16* a = nullptr;     // [batch][rows, k], row t of i at t * a_stride + i * a_batch_stride
  int64_t a_stride = 0;        // elements
  int64_t a_batch_stride = 0;  // elements; may be smaller than a_stride (heads inside a row)
  int rows = 0;                // tokens
  const Bf16* b = nullptr;     // [batch][n, k], row stride k
  int64_t b_batch_stride = 0;  // elements
  int n = 0, k = 0, batch = 1;
  OutSegment out[4];             // consecutive column ranges of [rows, n], each bf16 or f32
  int segments = 1;              // with `coded` also 0
  int64_t out_batch_stride = 0;  // elements of the output type, the same for all segments
  CodedOut coded;                // where bf16_writes_codes() says so
};

void bf16_gemm(const Bf16GemmParams& p, const Launch& l);
// Whether the kernel for these sizes has all 128 columns of a row in one tile.
bool bf16_writes_codes(const Bf16GemmParams& p, const Launch& l);
// Bytes of Launch.workspace: none, partial sums over k meet inside a cluster of CTAs.
size_t bf16_gemm_workspace(const Bf16GemmParams& p);

// Ragged rows of experts: rows [offsets[e], offsets[e + 1]) of `a` times b[e]^T. An expert without
// rows costs nothing. Rows at and after offsets[experts] are not written.
struct Bf16GroupedParams {
  const Bf16* a = nullptr;           // [max_rows, k]
  int64_t a_stride = 0;              // elements, a multiple of 8
  const Bf16* b = nullptr;           // [experts, n, k]
  const int32_t* offsets = nullptr;  // [experts + 1] on the device, ascending from 0
  void* out = nullptr;               // [max_rows, n], bf16 or f32
  int64_t out_stride = 0;            // elements of the output type
  bool out_f32 = false;
  int experts = 0, n = 0, k = 0;
  int max_rows = 0;  // bound on offsets[experts]; sizes the grid and the choice of tile
  int tokens = 0;    // tokens of the step, for the choice of tile only
};

void bf16_grouped_gemm(const Bf16GroupedParams& p, const Launch& l);

}  // namespace fathom::cuda
