// Choice of tile for FP8 products of many rows. Every tile adds in the same order, so the choice
// moves time only, never bits.
#pragma once

#include "kernels/cuda/gemm/fp8_gemm.h"

namespace fathom::cuda {

// Rows x columns of one CTA's tile. The three largest come in clusters of two CTAs that share what
// they have in common: the activation rows of two column neighbours, or the weight rows of two row
// neighbours.
enum class ManyTile : uint8_t {
  m256n128,
  m192n128,
  m128n192,
  m128n128,
  m128n96,
  m128n64,
  m64n64,
  m64n32
};
inline constexpr int kManyTiles = 8;

struct ManyTileShape {
  int rows, columns;
  int rows_apart, columns_apart;  // tiles of a cluster along each side
};
ManyTileShape shape_of(ManyTile tile);

struct ManyPlan {
  ManyTile tile = ManyTile::m256n128;
  int row_units = 0, column_units = 0;  // clusters that cover the product
  int group = 0;                        // row units walked before the next column unit
  int ctas = 0;                         // persistent, a multiple of the cluster
};

ManyPlan plan_many(int rows, int n, int k, int sms);
// The same with the tile given.
ManyPlan plan_many_as(ManyTile tile, int rows, int n, int k, int sms);

// Throw Error on what the kernels do not take.
void check_many(const Fp8GemmParams& p);
void check_many(const Fp8GroupedParams& p);

}  // namespace fathom::cuda
