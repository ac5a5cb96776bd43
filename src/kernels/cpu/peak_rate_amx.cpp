#include <immintrin.h>

#include "kernels/cpu/amx_state.h"
#include "kernels/cpu/peak_rate.h"

namespace fathom {
namespace {

#include "kernels/cpu/amx_inl.h"
#include "kernels/cpu/peak_rate_avx512_inl.h"

constexpr int kTileSums = 6;  // an instruction every 16 cycles at a latency of 52

float bf16(int64_t rounds) {
  TileShapes shapes;
  for (int i = 0; i < 8; ++i) shapes.set(i, kTileRows, kTileRowBytes);
  shapes.apply(0);  // and zeros: no operand is slower than another
  for (int64_t r = 0; r < rounds; ++r) {
    tile_multiply<0, 6, 7>();
    tile_multiply<1, 6, 7>();
    tile_multiply<2, 6, 7>();
    tile_multiply<3, 6, 7>();
    tile_multiply<4, 6, 7>();
    tile_multiply<5, 6, 7>();
  }
  alignas(64) float sums[kTileRows * kTileRows];
  tile_store<0>(sums, kTileRowBytes);
  tile_release();
  return sums[0];
}

constexpr int64_t kTileFlops = 2 * kTileRows * kTileRows * kTileColumns;

}  // namespace

const PeakKernels kPeakAmx = {.name = "amx",
                              .read = read,
                              .bf16 = {"tdpbf16ps, 16 x 16 x 32", bf16, kTileSums* kTileFlops},
                              .f32 = {"vfmadd, 512 bits", f32, kSums * 16 * 2}};

}  // namespace fathom
