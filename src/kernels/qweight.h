// A weight matrix as it is stored in the checkpoint, and the groups of weights that ops take.
#pragma once

#include <cstdint>

#include "base/check.h"
#include "numerics/bf16.h"
#include "numerics/fp8.h"
#include "tensor/dtype.h"

namespace fathom {

inline constexpr int kWordRows = 16;     // rows of a strip of QWeight::words
inline constexpr int kWordColumns = 16;  // its columns are a multiple of

// [rows, cols] row-major, applied as y = x W^T. FP8: value = code * scale of its 128x128 block.
// Non-owning: points into a mapped file or into memory owned by Weights. May be a rectangle of a
// larger matrix; its first column is then the first of a block.
struct QWeight {
  const void* data = nullptr;
  DType dtype = DType::bf16;  // fp8_e4m3, bf16, f32 or f16
  int64_t rows = 0, cols = 0;
  const float* scale = nullptr;  // [ceil((rows + row_offset) / 128), scale_stride], FP8 only
  int64_t scale_stride = 0;      // scales of one row of blocks of the whole matrix
  int row_offset = 0;            // row 0 is row `row_offset` of its block (a slice of a matrix)
  bool pow2_scale = false;       // every scale is a power of two (ue8m0)
  int64_t columns_stored = 0;    // columns of the whole matrix, if it has more; 0: cols
  // A second copy of FP8 or bf16 elements for kernels whose lanes are outputs, or null: strips of
  // kWordRows rows, one behind the other, each [word of columns][row], where a word is as many
  // columns as 4 bytes hold. Rows behind the last whole strip are missing; strips do not cross
  // blocks of scales. There are no NaN codes.
  const uint8_t* words = nullptr;

  // Elements from one row to the next.
  int64_t stride() const { return columns_stored > 0 ? columns_stored : cols; }
  bool empty() const { return data == nullptr; }
  bool is_fp8() const { return dtype == DType::fp8_e4m3; }
  template <class T>
  const T* row(int64_t r) const {
    return static_cast<const T*>(data) + r * stride();
  }
  const float* scales_of_row(int64_t r) const {
    return scale + (r + row_offset) / kFp8Block * scale_stride;
  }
  // Rows [begin, end) as a weight of their own.
  QWeight slice_rows(int64_t begin, int64_t end) const {
    FATHOM_CHECK(0 <= begin && begin <= end && end <= rows, "rows [{}, {}) of {}", begin, end,
                 rows);
    QWeight w = *this;
    w.data =
        static_cast<const char*>(data) + begin * stride() * static_cast<int64_t>(size_of(dtype));
    w.rows = end - begin;
    if (scale) {
      w.scale = scales_of_row(begin);
      w.row_offset = static_cast<int>((begin + row_offset) % kFp8Block);
    }
    if (words)
      w.words = begin % kWordRows == 0 ? words + begin * cols * static_cast<int64_t>(size_of(dtype))
                                       : nullptr;
    return w;
  }
  // Columns [begin, end) as a weight of their own. FP8: `begin` is the first column of a block.
  QWeight slice_columns(int64_t begin, int64_t end) const {
    FATHOM_CHECK(0 <= begin && begin <= end && end <= cols && (!scale || begin % kFp8Block == 0),
                 "columns [{}, {}) of {}", begin, end, cols);
    QWeight w = *this;
    w.data = static_cast<const char*>(data) + begin * static_cast<int64_t>(size_of(dtype));
    w.cols = end - begin;
    w.columns_stored = w.cols == stride() ? 0 : stride();
    if (w.cols != cols) w.words = nullptr;
    if (scale) w.scale = scale + begin / kFp8Block;
    return w;
  }
  int64_t bytes() const {
    int64_t blocks = scale ? (rows + row_offset + kFp8Block - 1) / kFp8Block *
                                 ((cols + kFp8Block - 1) / kFp8Block)
                           : 0;
    return rows * cols * static_cast<int64_t>(size_of(dtype)) + 4 * blocks;
  }
};

// down(silu(gate x) * up x). Empty: the weights are another rank's.
struct MlpWeights {
  QWeight gate, up, down;
  bool empty() const { return gate.rows == 0; }
};

// kv_b_proj: per head [nope key rows | value rows] x latent.
struct KvUpWeights {
  QWeight kv_b;  // [heads * (nope + value), latent]
  int heads = 0, nope = 0, value = 0, latent = 0;
  // The same weights in bf16, laid out for a GPU; null on a CPU:
  const Bf16* absorb = nullptr;    // key part, transposed: [heads, latent, nope]
  const Bf16* value_up = nullptr;  // value part: [heads, value, latent]
};

}  // namespace fathom
