// y = x W^T for some rows of W on one thread: in which form activations and weights are multiplied,
// and the loop over panels. LinearOps divides the work; the kernels of gemm.h do it.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>

#include "kernels/cpu/gemm.h"
#include "kernels/qweight.h"
#include "numerics/modes.h"
#include "tensor/buffer.h"

namespace fathom {

// With fewer activation rows than this, panels have one strip, which stays in L1. A larger panel
// would only save reading the activations again, and those stay in L1, too.
inline constexpr int kFewRows = 64;
inline constexpr int kRowChunk = 512;  // activation rows per pass: their 512 columns sit in L2

// The form of activations in a product. It depends on numerics and weights alone, never on the
// batch.
struct Form {
  // plain: as they are. folded: quantised to FP8, each value multiplied by its (power of two) scale
  // again, as are the weights: exact in bf16. coded: both sides as code values, and the float32
  // sums of 128 columns multiplied by both scales.
  enum class Quant : uint8_t { plain, folded, coded };
  bool f32 = false;
  Quant quant = Quant::plain;
  bool operator==(const Form&) const = default;
};

// Returns the form that all of `weights` can share; nothing if there is none.
std::optional<Form> common_form(std::span<const QWeight* const> weights, Numerics numerics,
                                bool ue8m0, bool has_bf16);

// Prepared activations. Rows are pointers, so that gathered rows need no copy.
struct Inputs {
  const uint8_t* const* x = nullptr;
  const float* const* scale = nullptr;  // coded form only
  int64_t rows = 0;
  const uint8_t* interleaved = nullptr;  // the rows as Product::interleave leaves them
  int64_t row_bytes = 0;                 // bytes reserved per row there, if it makes blocks
  const uint8_t* lifted = nullptr;       // `interleaved` as Product::lift leaves it, or null

  // Of rows in blocks, `begin` must be the first row of a block.
  Inputs slice(int64_t begin, int64_t count) const {
    return {x + begin, scale ? scale + begin : nullptr, count,
            row_bytes ? interleaved + begin * row_bytes : nullptr, row_bytes};
  }
};

struct Outputs {
  void* data = nullptr;  // [rows, weight.rows]
  int64_t stride = 0;    // elements
  bool bf16 = false;
  void* at(int64_t row, int64_t column) const {
    return static_cast<char*>(data) + (row * stride + column) * (bf16 ? 2 : 4);
  }
};

// Per-thread memory of a product.
class ProductScratch {
 public:
  ProductScratch();
  uint8_t* panel(int strip) const;
  float* carry(int strip) const;  // [kRowChunk, 16]
  float* tile(int which) const;   // [kRowChunk, kTileStride], for gate and up
  static constexpr int64_t kTileStride = kMaxPanelStrips * kStripRows;

 private:
  Buffer memory_;
};

class Product {
 public:
  Product(const GemmKernels& kernels, Numerics numerics) : kernels_(kernels), numerics_(numerics) {}

  // Strips of 16 rows, cut where row + row_offset is a multiple of 16: none crosses a scale block.
  static int64_t strips(const QWeight& w) {
    return (w.row_offset % kStripRows + w.rows + kStripRows - 1) / kStripRows;
  }
  static int64_t first_row(const QWeight& w, int64_t strip);
  // Whether streaming the weights is faster than panels for `rows` activation rows. If so, run()
  // needs the rows interleaved as well.
  bool streams(Form form, int64_t columns, int64_t rows) const {
    return rows <= of(form).stream_rows && (takes_blocks(form) || columns % kStep == 0);
  }
  // Strips that are packed at once for many rows; they stay in L2.
  int64_t panel_strips(Form form) const { return of(form).panel_strips; }
  // Whether run() always needs activations in blocks, of block_rows() rows with block_row_bytes()
  // each.
  bool takes_blocks(Form form) const { return of(form).block_rows > 0; }
  int64_t block_rows(Form form) const { return of(form).block_rows; }
  int64_t block_row_bytes(Form form, int64_t columns) const {
    const int64_t unit = of(form).block_columns;
    return (columns + unit - 1) / unit * unit * element_size(form);
  }
  // Whether a single row needs no copy to be a block.
  bool row_is_block(Form form, int64_t columns) const {
    return !takes_blocks(form) || columns % of(form).block_columns == 0;
  }
  void interleave_block(Form form, const uint8_t* const* x, int64_t rows, int64_t columns,
                        uint8_t* to) const {
    of(form).interleave(x, static_cast<int>(rows), columns, to);
  }
  // [unit][row of in], the units of the form's kernels: interleaved_bytes() at `to`.
  void interleave(Form form, Inputs in, int64_t columns, uint8_t* to) const;
  // Whether streaming words (QWeight::words) is faster with lifted activations.
  bool lifts(Form form) const { return of(form).lift != nullptr; }
  // `n` interleaved activations. False: they cannot be lifted.
  bool lift(Form form, const uint8_t* x, int64_t n, uint8_t* to) const {
    return of(form).lift(reinterpret_cast<const float*>(x), n, reinterpret_cast<float*>(to));
  }
  static int64_t interleaved_bytes(int64_t columns, int64_t rows) { return rows * columns * 4; }

  // Strips [begin, end) of w. Column 0 of `out` is row first_row(begin) of w.
  void run(const QWeight& w, Form form, int64_t begin, int64_t end, Inputs in, Outputs out,
           const ProductScratch& scratch) const;

 private:
  Strip strip_at(const QWeight& w, Form form, int64_t strip) const;
  void stream(const QWeight& w, Form form, int64_t at, const Strip& strip, Inputs in,
              Outputs out) const;
  void panel(const QWeight& w, Form form, int64_t begin, int64_t end, Inputs in, Outputs out,
             const ProductScratch& scratch) const;
  // The rows of `in` from `row` on that panel() multiplies at a time, `rows` of them, with columns
  // [k0, k0 + depth) of a strip. `panel` and `out` are the strip's.
  TileJob tile_job(const QWeight& w, Form form, int64_t strip, int64_t k0, int64_t depth, Inputs in,
                   int64_t row, int64_t rows, Outputs out) const;
  const ProductKernels& of(Form form) const { return form.f32 ? kernels_.f32 : kernels_.bf16; }
  static int element_size(Form form) { return form.f32 ? 4 : 2; }

  const GemmKernels& kernels_;
  const Numerics numerics_;
};

}  // namespace fathom
