// Products of bf16 in tile registers (AMX). A tile of weights holds 16 rows of 32 columns as they
// lie, so that expanding FP8 codes is all that packing does; activations come in blocks of up to 16
// rows whose pairs of columns lie side by side. One row of activations goes the same way as many:
// its sums are the same.
#if defined(__x86_64__)
// GCC 12's own intrinsics read a variable before its first assignment, on purpose (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/amx_state.h"
#include "kernels/cpu/gemm.h"

namespace fathom {
namespace {

inline __m256i to_bf16_bits(__m512 v) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)); }

#include "kernels/cpu/vector_avx512_inl.h"

#include "kernels/cpu/amx_inl.h"
#include "kernels/cpu/fp8_bf16_avx512_inl.h"
#include "kernels/cpu/gemm_inl.h"
#include "kernels/cpu/transpose_avx512_inl.h"

static_assert(kStripRows == kTileRows && kDepth % kTileColumns == 0 && kBlock % kTileColumns == 0);
constexpr int kBlocks = 4;        // of activations whose sums are in registers at a time
constexpr int kStreamBlocks = 2;  // of activations that weights are streamed for

// Registers: sums of up to three whole blocks in 0 to 2, of the last block, which may have fewer
// rows, in 3; weights; activations of whole blocks, in turns, and of the last one.
constexpr int kLastSum = 3, kWeights = 4, kWholeA = 5, kWholeB = 6, kLast = 7;

void shape_tiles(int last_rows) {
  const uint32_t number = static_cast<uint32_t>(last_rows);
  if (current_tile_shapes == number) return;
  TileShapes shapes;
  for (int i = 0; i < kLastSum; ++i) shapes.set(i, kTileRows, kTileRowBytes);
  shapes.set(kLastSum, kTileRows, 4 * last_rows);
  shapes.set(kWeights, kTileRows, kTileRowBytes);
  shapes.set(kWholeA, kTilePairs, kTileRowBytes);
  shapes.set(kWholeB, kTilePairs, kTileRowBytes);
  shapes.set(kLast, kTilePairs, 4 * last_rows);
  shapes.apply(number);
}

// The activations of a job.
struct Blocks {
  const uint8_t* data;
  int64_t row_bytes;
  int rows;

  int count() const { return (rows + kTileRows - 1) / kTileRows; }
  int rows_of(int block) const {
    const int left = rows - block * kTileRows;
    return left < kTileRows ? left : kTileRows;
  }
  const uint8_t* at(int block, int64_t column) const {
    return data + block * kTileRows * row_bytes + column * 2 * rows_of(block);
  }
};

// ------------------------------------------------------------------------------------- weights

// Loads 64 columns of 16 rows from k on as two tiles. A missing row is replaced by the last row,
// missing columns by zeros.
template <bool kFp8>
inline void expand_tiles(const Strip& s, int64_t k, const Table& table, uint8_t* to) {
  // The permutation makes up for unpacking within quarters of a register, so that codes stay in
  // order.
  const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  const int64_t left = s.columns - k;
  const uint64_t mask = left >= 64 ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
  const uint8_t* row = s.data + k * (kFp8 ? 1 : 2);
  for (int r = 0; r < kStripRows; ++r, to += kTileRowBytes) {
    __m512 first, second;
    if constexpr (kFp8) {
      __m512i codes = _mm512_maskz_loadu_epi8(mask, row);
      expand(table, _mm512_permutexvar_epi64(order, codes), &first, &second);
    } else {
      first = _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(static_cast<__mmask32>(mask), row));
      second = _mm512_castsi512_ps(
          _mm512_maskz_loadu_epi16(static_cast<__mmask32>(mask >> 32), row + 64));
    }
    _mm512_store_ps(to, first);
    _mm512_store_ps(to + kTileBytes, second);
    if (r + 1 < s.rows) row += s.stride;
  }
}

template <bool kFp8>
void pack_code(const Strip& s, int64_t k0, int depth, uint8_t* panel) {
  ScaledTable table;
  for (int64_t k = k0; k < k0 + depth; k += 2 * kTileColumns, panel += 2 * kTileBytes) {
    if (kFp8 && s.scale) table.set(s.scale[k / kBlock]);
    expand_tiles<kFp8>(s, k, table.table, panel);
  }
}

// A panel is the tiles of a strip, one behind the other.
void pack(const Strip& s, int64_t k0, int depth, uint8_t* panel) {
  s.code == WeightCode::fp8 ? pack_code<true>(s, k0, depth, panel)
                            : pack_code<false>(s, k0, depth, panel);
}

// --------------------------------------------------------------------------------- activations

void interleave(const uint8_t* const* x, int rows, int64_t columns, uint8_t* to) {
  const __mmask16 lanes = static_cast<__mmask16>((1U << rows) - 1);
  for (int64_t k = 0; k < columns; k += kTileColumns) {
    const int64_t left = columns - k;
    const __mmask32 mask = static_cast<__mmask32>(left >= kTileColumns ? ~0U : (1U << left) - 1);
    __m512i pairs[kTileRows];
#pragma GCC unroll 16
    for (int r = 0; r < kTileRows; ++r)
      pairs[r] = r < rows ? _mm512_maskz_loadu_epi16(mask, x[r] + 2 * k) : _mm512_setzero_si512();
    transpose(pairs);
#pragma GCC unroll 16
    for (int p = 0; p < kTilePairs; ++p, to += 4 * rows)
      _mm512_mask_storeu_epi32(to, lanes, pairs[p]);
  }
}

// ---------------------------------------------------------------------------------------- sums

// Calls body(register, which block) for the sums of kCount blocks.
template <int kTile>
struct Sum {
  static constexpr int kRegister = kTile;
};
template <int kCount, class Body>
[[gnu::always_inline]] inline void for_sums(Body body) {
  if constexpr (kCount > 1) body(Sum<0>{}, 0);
  if constexpr (kCount > 2) body(Sum<1>{}, 1);
  if constexpr (kCount > 3) body(Sum<2>{}, 2);
  body(Sum<kLastSum>{}, kCount - 1);
}

template <int kCount>
[[gnu::always_inline]] inline void clear_sums() {
  for_sums<kCount>([](auto sum, int) { tile_zero<sum.kRegister>(); });
}

// Adds the products of `tiles` tiles of weights with kCount blocks of activations.
template <int kCount, class Between>
[[gnu::always_inline]] inline void multiply(const uint8_t* weights, int tiles,
                                            const uint8_t* const (&x)[kCount], int last_rows,
                                            Between between) {
  for (int64_t t = 0; t < tiles; ++t) {
    between();
    tile_load<kWeights>(weights + t * kTileBytes, kTileRowBytes);
    if constexpr (kCount > 1) {
      tile_load<kWholeA>(x[0] + t * kTileBytes, kTileRowBytes);
      tile_multiply<0, kWeights, kWholeA>();
    }
    if constexpr (kCount > 2) {
      tile_load<kWholeB>(x[1] + t * kTileBytes, kTileRowBytes);
      tile_multiply<1, kWeights, kWholeB>();
    }
    if constexpr (kCount > 3) {
      tile_load<kWholeA>(x[2] + t * kTileBytes, kTileRowBytes);
      tile_multiply<2, kWeights, kWholeA>();
    }
    tile_load<kLast>(x[kCount - 1] + t * kTileRowBytes * last_rows, 4 * last_rows);
    tile_multiply<kLastSum, kWeights, kLast>();
  }
}

// The sums of a register as rows of activations: out[m] has those of 16 weight rows.
template <int kTile>
inline void sums_by_row(int rows, __m512 (&out)[kTileRows]) {
  alignas(64) float memory[kTileRows * kTileRows];
  if (rows == 1) {
    tile_store<kTile>(memory, 4);
    out[0] = _mm512_load_ps(memory);
    return;
  }
  tile_store<kTile>(memory, kTileRowBytes);
  __m512i x[kTileRows];
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; ++i) x[i] = _mm512_load_si512(memory + i * kTileRows);
  transpose(x);
#pragma GCC unroll 16
  for (int i = 0; i < kTileRows; ++i) out[i] = _mm512_castsi512_ps(x[i]);
}

struct Output {
  void* data;
  int64_t stride;
  bool bf16;
  int columns;

  void store(int64_t row, __m512 v) const {
    if (columns >= kStripRows)
      store_from_float(data, bf16, row * stride, v);
    else
      store_part(data, bf16, row * stride, columns, v);
  }
};

template <int kCount>
inline void store_sums(const Blocks& x, int first, const Output& out) {
  for_sums<kCount>([&](auto sum, int i) {
    __m512 row[kTileRows];
    const int rows = x.rows_of(first + i);
    sums_by_row<sum.kRegister>(rows, row);
    for (int m = 0; m < rows; ++m) out.store((first + i) * kTileRows + m, row[m]);
  });
}

// Scales of coded products: of the activation rows, from a column block on, and of the weights.
struct BlockScales {
  const float* const* x;
  int64_t x_offset;
  const float* w;
};

// total[m] += sums * scales of the block; the registers start anew.
template <int kCount>
inline void fold_sums(const Blocks& x, int first, const BlockScales& scale, int64_t block,
                      float* total) {
  for_sums<kCount>([&](auto sum, int i) {
    __m512 row[kTileRows];
    const int rows = x.rows_of(first + i);
    sums_by_row<sum.kRegister>(rows, row);
    for (int m = 0; m < rows; ++m) {
      const int64_t at = int64_t{first + i} * kTileRows + m;
      __m512 part = _mm512_mul_ps(row[m], _mm512_set1_ps(scale.x[at][scale.x_offset + block]));
      part = _mm512_mul_ps(part, _mm512_set1_ps(scale.w[block]));
      float* to = total + at * kStripRows;
      _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), part));
    }
    tile_zero<sum.kRegister>();
  });
}

// -------------------------------------------------------------------------------------- panels

template <int kCount>
void multiply_panel(const TileJob& job, const Blocks& x, int first, WeightsAhead& ahead) {
  const int64_t k0 = job.x_offset / 2;
  const int tiles = (job.units * 8 + kTileColumns - 1) / kTileColumns;
  const int last_rows = x.rows_of(first + kCount - 1);
  const Output out{job.out, job.out_stride, job.out_bf16, job.columns};
  const uint8_t* from[kCount];
  auto add = [&](int tile, int count) {
    for (int i = 0; i < kCount; ++i) from[i] = x.at(first + i, k0 + tile * kTileColumns);
    multiply<kCount>(job.panel + int64_t{tile} * kTileBytes, count, from, last_rows,
                     [&] { ahead.step(); });
  };
  shape_tiles(last_rows);
  if (job.w_scale || job.first) clear_sums<kCount>();
  if (!job.w_scale) {
    float* carry = job.carry + int64_t{first} * kTileRows * kStripRows;  // tiles as they are
    if (!job.first)
      for_sums<kCount>([&](auto sum, int i) {
        tile_load<sum.kRegister>(carry + i * kTileRows * kStripRows, kTileRowBytes);
      });
    add(0, tiles);
    if (job.last)
      store_sums<kCount>(x, first, out);
    else
      for_sums<kCount>([&](auto sum, int i) {
        tile_store<sum.kRegister>(carry + i * kTileRows * kStripRows, kTileRowBytes);
      });
    return;
  }
  constexpr int kBlockTiles = kBlock / kTileColumns;
  const int64_t row0 = int64_t{first} * kTileRows, rows = (kCount - 1) * kTileRows + last_rows;
  if (job.first) memset(job.carry + row0 * kStripRows, 0, rows * kStripRows * sizeof(float));
  for (int t = 0; t < tiles; t += kBlockTiles) {
    add(t, tiles - t < kBlockTiles ? tiles - t : kBlockTiles);
    fold_sums<kCount>(x, first, {job.x_scale, job.x_scale_offset, job.w_scale}, t / kBlockTiles,
                      job.carry);
  }
  if (!job.last) return;
  for (int64_t m = row0; m < row0 + rows; ++m)
    out.store(m, _mm512_loadu_ps(job.carry + m * kStripRows));
}

void tile(const TileJob& job) {
  const Blocks x{job.x_blocks, job.x_row_bytes, job.rows};
  const int blocks = x.count(), groups = (blocks + kBlocks - 1) / kBlocks;
  WeightsAhead ahead(job, groups * ((job.units * 8 + kTileColumns - 1) / kTileColumns));
  for (int first = 0; first < blocks; first += kBlocks) {
    switch (blocks - first) {
      case 1:
        multiply_panel<1>(job, x, first, ahead);
        break;
      case 2:
        multiply_panel<2>(job, x, first, ahead);
        break;
      case 3:
        multiply_panel<3>(job, x, first, ahead);
        break;
      default:
        multiply_panel<4>(job, x, first, ahead);
    }
  }
}

// ------------------------------------------------------------------------------------- streams

// As in gemm_avx512.cpp: each line of weights fetches the one so many bytes on.
constexpr int64_t kAhead = 256;

inline void fetch_ahead(const StreamJob& job, int64_t offset, int64_t row_bytes) {
  offset += kAhead;
  const uint8_t* p = offset < row_bytes ? job.strip.data + offset : job.next + (offset - row_bytes);
  for (int r = 0; r < kStripRows; ++r)
    _mm_prefetch(reinterpret_cast<const char*>(p + r * job.strip.stride), _MM_HINT_T0);
}

// 64 columns are expanded while the products of the 64 before them are under way.
template <int kCount, bool kFp8>
void stream_blocks(const StreamJob& job) {
  constexpr int kStepColumns = 2 * kTileColumns, kSteps = 2;
  alignas(64) uint8_t ring[kSteps][2 * kTileBytes];
  alignas(64) float total[kCount * kTileRows * kStripRows];
  const Strip& s = job.strip;
  const Blocks x{job.x, job.x_row_bytes, job.rows};
  const int last_rows = x.rows_of(kCount - 1);
  const int64_t row_bytes = s.columns * (kFp8 ? 1 : 2);
  const bool coded = job.w_scale != nullptr;
  ScaledTable table;
  if (coded) memset(total, 0, sizeof(total));
  shape_tiles(last_rows);
  clear_sums<kCount>();
  auto add = [&](int64_t k) {
    const uint8_t* from[kCount];
    for (int i = 0; i < kCount; ++i) from[i] = x.at(i, k);
    multiply<kCount>(ring[k / kStepColumns % kSteps], s.columns - k > kTileColumns ? 2 : 1, from,
                     last_rows, [] {});
    if (coded && ((k + kStepColumns) % kBlock == 0 || k + kStepColumns >= s.columns))
      fold_sums<kCount>(x, 0, {job.x_scale, 0, job.w_scale}, k / kBlock, total);
  };
  int64_t k = 0;
  for (; k < s.columns; k += kStepColumns) {
    for (int line = 0; line < kStepColumns * (kFp8 ? 1 : 2); line += 64)
      fetch_ahead(job, k * (kFp8 ? 1 : 2) + line, row_bytes);
    if (kFp8 && s.scale) table.set(s.scale[k / kBlock]);
    expand_tiles<kFp8>(s, k, table.table, ring[k / kStepColumns % kSteps]);
    if (k > 0) add(k - kStepColumns);
  }
  add(k - kStepColumns);
  const Output out{job.out, job.out_stride, job.out_bf16, kStripRows};
  if (coded)
    for (int m = 0; m < job.rows; ++m) out.store(m, _mm512_load_ps(total + m * kStripRows));
  else
    store_sums<kCount>(x, 0, out);
}

void stream(const StreamJob& job) {
  const bool fp8 = job.strip.code == WeightCode::fp8;
  if (job.rows <= kTileRows)
    fp8 ? stream_blocks<1, true>(job) : stream_blocks<1, false>(job);
  else
    fp8 ? stream_blocks<2, true>(job) : stream_blocks<2, false>(job);
}

}  // namespace

const ProductKernels kTileProducts = {
    .pack = pack,
    .tile = tile,
    .stream = stream,
    .stream_rows = kStreamBlocks * kTileRows,
    .stream_unit = 4,
    .panel_strips = kMaxPanelStrips,
    .block_rows = kTileRows,
    .block_columns = kTileColumns,
    .interleave = interleave,
};

}  // namespace fathom
#endif
