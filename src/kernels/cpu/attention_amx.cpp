// Products of attention in tile registers (AMX): a panel's rows of words are what the second
// operand of a tile product is made of, so nothing is packed.
#include "kernels/cpu/attention_kernels.h"

#include "kernels/cpu/amx_state.h"

#if defined(__x86_64__)
// GCC 12's own intrinsics read a variable before its first assignment, on purpose (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

namespace fathom {
namespace {

#include "kernels/cpu/amx_inl.h"

// Registers: sums of four times 16 columns; a and b of 16 words, and of what is left of the words.
constexpr int kA = 4, kB = 5, kRestA = 6, kRestB = 7;
static_assert(kPanelWidth == 4 * kTileRows);

void shape_tiles(int rows, int rest) {
  const uint32_t number = static_cast<uint32_t>(1 << 16 | rest << 8 | rows);
  if (current_tile_shapes == number) return;
  TileShapes shapes;
  for (int j = 0; j < 4; ++j) shapes.set(j, rows, kTileRowBytes);
  shapes.set(kA, rows, kTileRowBytes);
  shapes.set(kB, kTilePairs, kTileRowBytes);
  if (rest > 0) {
    shapes.set(kRestA, rows, 4 * rest);
    shapes.set(kRestB, rest, kTileRowBytes);
  }
  shapes.apply(number);
}

template <int kTileA, int kTileB>
inline void multiply(const uint32_t* a, int64_t a_stride, const uint32_t* b, int64_t b_stride) {
  tile_load<kTileA>(a, a_stride);
  tile_load<kTileB>(b, b_stride);
  tile_multiply<0, kTileA, kTileB>();
  tile_load<kTileB>(b + 16, b_stride);
  tile_multiply<1, kTileA, kTileB>();
  tile_load<kTileB>(b + 32, b_stride);
  tile_multiply<2, kTileA, kTileB>();
  tile_load<kTileB>(b + 48, b_stride);
  tile_multiply<3, kTileA, kTileB>();
}

void scale_rows(float* c, int64_t ldc, int rows, const float* carry) {
  for (int r = 0; r < rows; ++r)
    for (int j = 0; j < kPanelWidth; j += 16) {
      float* p = c + r * ldc + j;
      _mm512_storeu_ps(p, _mm512_mul_ps(_mm512_loadu_ps(p), _mm512_set1_ps(carry[r])));
    }
}

}  // namespace

void multiply_panel_by_tiles(const PanelProduct& g) {
  const int64_t a_stride = g.lda * 4, b_stride = g.ldb * 4, c_stride = g.ldc * 4;
  const int rest = g.words % kTilePairs, whole = g.words - rest;
  for (int row = 0; row < g.rows; row += kTileRows) {
    const int rows = g.rows - row < kTileRows ? g.rows - row : kTileRows;
    const uint32_t* a = static_cast<const uint32_t*>(g.a) + row * g.lda;
    const uint32_t* b = static_cast<const uint32_t*>(g.b);
    float* c = g.c + row * g.ldc;
    shape_tiles(rows, rest);
    if (g.carry) {
      scale_rows(c, g.ldc, rows, g.carry + row);
      tile_load<0>(c, c_stride);
      tile_load<1>(c + 16, c_stride);
      tile_load<2>(c + 32, c_stride);
      tile_load<3>(c + 48, c_stride);
    } else {
      tile_zero<0>();
      tile_zero<1>();
      tile_zero<2>();
      tile_zero<3>();
    }
    for (int k = 0; k < whole; k += kTilePairs)
      multiply<kA, kB>(a + k, a_stride, b + k * g.ldb, b_stride);
    if (rest > 0) multiply<kRestA, kRestB>(a + whole, a_stride, b + whole * g.ldb, b_stride);
    tile_store<0>(c, c_stride);
    tile_store<1>(c + 16, c_stride);
    tile_store<2>(c + 32, c_stride);
    tile_store<3>(c + 48, c_stride);
  }
}

}  // namespace fathom
#endif
