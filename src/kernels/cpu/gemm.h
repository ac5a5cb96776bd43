// The inner kernels of the linear layers, one table per instruction set. The files that define them
// are compiled for processors that others do not have, so this header declares plain data and
// function pointers only: no inline function may be emitted there and picked for the whole program.
//
// Order of summation. A bit-equal result for any batch, thread count and chunking needs one order,
// whichever kernel runs. There are three.
//   bf16     Columns are taken in 16-byte units; lane j of 4 sums its share of every unit (two
//            values), unit after unit; every kDepth columns (kBlock when products carry block
//            scales) the lanes are added as (0 + 2) + (1 + 3) to the running sum of the output.
//            Four lanes an output, not sixteen, make that last step cheap enough for short rows;
//            not one, so that FP8 codes need no transposition on their way from memory.
//   float32  Lane j of a whole vector sums the columns that are j modulo its width, from zero in
//            each block of kBlock; a block's sums times its scales are added to totals, lane by
//            lane, and every kDepth columns the totals' lanes are added, in a fixed tree, to the
//            running sum. A weight row needs no shuffling then, and each lane adds few products.
//   tiles    (AMX) Columns are taken in slices of 32. The processor sums the even and the odd
//            columns of a slice apart and adds the two; that is added to the running sum of the
//            output (of its block of kBlock when products carry block scales). The order does not
//            depend on the number of rows.
#pragma once

#include <cstdint>

#include "base/rounding.h"

namespace fathom {

inline constexpr int kStripRows = 16;   // weight rows a kernel works on: 4 vectors of 4 rows
inline constexpr int kDepth = 512;      // columns of one pass: 16 rows of them fit half of L1
inline constexpr int kBlock = 128;      // columns under one scale
inline constexpr int kStep = 16;        // activations and panels are zero-padded to this
inline constexpr int kStreamRows = 12;  // most activation rows that vectors stream weights for
inline constexpr int kMaxPanelStrips = 8;
// Columns with the zeros behind them.
constexpr int64_t padded(int64_t columns) { return round_up(columns, kStep); }
// Bytes of a panel's values, at most 4 each; after them is room for one factor per block.
inline constexpr int kPanelValueBytes = kStripRows * kDepth * 4;
inline constexpr int kPanelBytes = kPanelValueBytes + 64;

enum class WeightCode : uint8_t { fp8, bf16, f16, f32 };

// Up to 16 consecutive rows of a weight matrix that lie in the same row of scale blocks.
struct Strip {
  const uint8_t* data = nullptr;
  int64_t stride = 0;              // bytes between rows
  const uint8_t* words = nullptr;  // the strip's part of QWeight::words, or null
  const float* scale = nullptr;    // per kBlock columns; null: 1 (or applied to the products)
  int rows = 0;
  int64_t columns = 0;
  WeightCode code = WeightCode::fp8;
  bool round_to_bf16 = false;  // dequantised values are bf16, whatever the panel holds
};

// A panel holds a strip's columns [k0, k0 + depth), in an order that its kernels choose. That of
// bf16 is [unit of 16 bytes][z < 4][lane < 4], where (z, lane) is row 4 * lane + z, so that the
// sums of a tile come out in row order without a shuffle.
struct TileJob {
  const uint8_t* const* x = nullptr;  // activation rows
  int64_t x_offset = 0;               // bytes from the start of each row
  const uint8_t* x_blocks = nullptr;  // the same rows in blocks, for kernels that take blocks
  int64_t x_row_bytes = 0;            // room of a row in x_blocks
  int rows = 0;
  const uint8_t* panel = nullptr;
  int units = 0;
  // Block scales of the products, or null. They start at the panel's first column.
  const float* const* x_scale = nullptr;
  int64_t x_scale_offset = 0;
  const float* w_scale = nullptr;
  // Sums of the columns before this panel, and out again for later panels: [rows, 16].
  float* carry = nullptr;
  bool first = true, last = true;
  // Results, written with the last columns: [rows, columns].
  void* out = nullptr;
  int64_t out_stride = 0;  // elements
  bool out_bf16 = false;
  int columns = kStripRows;
  // Weights to prefetch during this job: `ahead_lines` lines of 64 bytes, in turn from 16 rows. May
  // be null.
  const uint8_t* ahead = nullptr;
  int64_t ahead_stride = 0;
  int ahead_lines = 0;
};

// A whole strip against up to stream_rows rows, straight from memory. 16 rows, columns a multiple
// of kStep.
struct StreamJob {
  Strip strip;
  const uint8_t* next = nullptr;  // the strip that this thread computes next, to prefetch
  // The activation rows, interleaved as [unit][rows], or in blocks.
  const uint8_t* x = nullptr;
  const uint8_t* x_lifted = nullptr;  // the rows as `lift` leaves them, or null
  int64_t x_row_bytes = 0;            // room of a row in blocks
  int rows = 0;
  const float* const* x_scale = nullptr;
  const float* w_scale = nullptr;
  void* out = nullptr;
  int64_t out_stride = 0;
  bool out_bf16 = false;
};

// Prepares one row of activations: converts it, pads it with zeros, and quantises it if asked.
struct PrepareJob {
  const void* x = nullptr;
  bool x_bf16 = false;
  int64_t columns = 0;
  void* out = nullptr;  // padded to kStep
  bool out_bf16 = false;
  // Quantises groups of kBlock by the rule of numerics/fp8.h. With `scales` the codes' values and
  // their scales are stored apart; without it the values are multiplied by their scales.
  float (*group_scale)(float amax, bool ue8m0) = nullptr;
  bool ue8m0 = true;
  float* scales = nullptr;
  bool pad = true;
};

struct NormJob {
  const void* x = nullptr;
  const void* update = nullptr;  // added to x, the rounded sum stored to `sum`; may be null
  void* sum = nullptr;
  void* out = nullptr;
  bool x_bf16 = false, out_bf16 = false;
  int64_t columns = 0;
  const float* gain = nullptr;
  float eps = 0;
};

// out[i] = silu(gate[i]) * up[i], each rounded to bf16 first when `bf16`.
struct SiluJob {
  const float* gate = nullptr;
  const float* up = nullptr;
  int64_t stride = 0;  // of both
  int rows = 0;
  int64_t columns = 0;
  void* out = nullptr;
  int64_t out_stride = 0;
  bool bf16 = false;
};

// out = sum of weight[i] * part[i] in order, plus `extra` (may be null).
struct CombineJob {
  const void* const* part = nullptr;
  const float* weight = nullptr;
  int parts = 0;
  const void* extra = nullptr;
  void* out = nullptr;
  int64_t columns = 0;
  bool bf16 = false;
};

// The kernels for one type of panels and prepared activations.
struct ProductKernels {
  void (*pack)(const Strip& strip, int64_t k0, int depth, uint8_t* panel) = nullptr;
  void (*tile)(const TileJob& job) = nullptr;
  void (*stream)(const StreamJob& job) = nullptr;
  int stream_rows = 0;  // most activation rows that `stream` takes: with more, panels are faster
  int stream_unit = 0;  // bytes of a row that stay together when rows are interleaved
  // Multiplies n activations by the power of two with which FP8 words are multiplied fastest.
  // False: they are too great for that, and words are streamed without. Null: no use for it.
  bool (*lift)(const float* x, int64_t n, float* to) = nullptr;
  int panel_strips = 4;  // strips packed at once for many rows, at most kMaxPanelStrips

  // Another panel, and products with it that are the same bit for bit, for `many_rows` activation
  // rows and more; 0: none. `row_block` rows are multiplied with all strips that are packed before
  // the next rows are: so many stay in L2.
  void (*pack_many)(const Strip& strip, int64_t k0, int depth, uint8_t* panel) = nullptr;
  void (*tile_many)(const TileJob& job) = nullptr;
  int many_rows = 0, row_block = 0;

  // Kernels that take activations in blocks, whatever their number: block_rows rows (the last block
  // has the rest), [pair of columns][row], padded with zeros to a multiple of block_columns. Block
  // b starts where row b * block_rows would if each row had x_row_bytes. 0: rows as they lie.
  int block_rows = 0, block_columns = 0;
  void (*interleave)(const uint8_t* const* x, int rows, int64_t columns, uint8_t* to) = nullptr;
};

struct GemmKernels {
  const char* name;
  ProductKernels f32;
  ProductKernels bf16;  // empty if the processor has no bf16 products
  void (*prepare)(const PrepareJob& job);
  void (*norm)(const NormJob& job);
  void (*silu)(const SiluJob& job);
  void (*combine)(const CombineJob& job);
};

extern const ProductKernels
    kTileProducts;                        // of bf16: needs AMX with bf16, and what kGemmAvx512 does
extern const GemmKernels kGemmAmx;        // these and the rest of kGemmAvx512
extern const GemmKernels kGemmAvx512;     // needs AVX-512 F/BW/VL/DQ, VBMI, BF16
extern const GemmKernels kGemmAvx512F32;  // needs AVX-512 F/BW/VL/DQ, F16C
extern const GemmKernels kGemmAvx2;       // needs AVX2, FMA, F16C

}  // namespace fathom
