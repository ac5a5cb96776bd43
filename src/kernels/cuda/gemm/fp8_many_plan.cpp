#include "kernels/cuda/gemm/fp8_many_plan.h"

#include <algorithm>

#include "base/error.h"
#include "base/rounding.h"

namespace fathom::cuda {
namespace {

// Time of a tile relative to its share of the product, 256x128 = 1. Measured on an H200 at 64 to
// 4096 rows of the model's products; smaller tiles read more operands.
double slowness_of(ManyTile tile) {
  switch (tile) {
    case ManyTile::m256n128:
      return 1.0;
    case ManyTile::m192n128:
      return 1.03;
    case ManyTile::m128n192:
      return 1.07;
    case ManyTile::m128n128:
      return 1.36;
    case ManyTile::m128n96:
      return 1.64;
    case ManyTile::m128n64:
      return 1.77;
    case ManyTile::m64n64:
      return 2.98;
    case ManyTile::m64n32:
      break;
  }
  return 5.48;
}

void check_columns(int n, int k) {
  if (n <= 0 || n % 8 != 0) fail("fp8 GEMM: {} columns, need a positive multiple of 8", n);
  if (k <= 0 || k % 128 != 0) fail("fp8 GEMM: k = {}, need a positive multiple of 128", k);
}

void check_rows(const Fp8Rows& a, int k) {
  if (a.k != k) fail("fp8 GEMM: rows have k = {}, weights {}", a.k, k);
  if (a.rows < 0 || a.scale_stride < a.rows || a.scale_stride % 4 != 0)
    fail("fp8 GEMM: {} rows with scale stride {}, need a multiple of 4 not below", a.rows,
         a.scale_stride);
}

}  // namespace

ManyTileShape shape_of(ManyTile tile) {
  switch (tile) {
    case ManyTile::m256n128:
      return {256, 128, 1, 2};
    case ManyTile::m192n128:
      return {192, 128, 1, 2};
    case ManyTile::m128n192:
      return {128, 192, 2, 1};
    case ManyTile::m128n128:
      return {128, 128, 1, 1};
    case ManyTile::m128n96:
      return {128, 96, 1, 1};
    case ManyTile::m128n64:
      return {128, 64, 1, 1};
    case ManyTile::m64n64:
      return {64, 64, 1, 1};
    case ManyTile::m64n32:
      break;
  }
  return {64, 32, 1, 1};
}

ManyPlan plan_many_as(ManyTile tile, int rows, int n, int k, int sms) {
  const ManyTileShape s = shape_of(tile);
  const int cluster = s.rows_apart * s.columns_apart;
  ManyPlan plan;
  plan.tile = tile;
  plan.row_units = ceil_div(rows, s.rows * s.rows_apart);
  plan.column_units = ceil_div(n, s.columns * s.columns_apart);
  // The area that runs at once should be about as tall as wide: then the fewest rows of both
  // operands are in use in L2. 2048 rows balance 66 clusters of 256 columns. More rows stay in L2
  // by themselves if they are short, and then weights are read once.
  constexpr int kResting = 8 << 20;  // bytes
  plan.group = std::max(1, std::max(2048, kResting / k) / (s.rows * s.rows_apart));
  plan.ctas = std::min(plan.row_units * plan.column_units, sms / cluster) * cluster;
  return plan;
}

ManyPlan plan_many(int rows, int n, int k, int sms) {
  ManyPlan best;
  double best_cost = 0;
  for (int i = 0; i < kManyTiles; ++i) {
    const auto tile = static_cast<ManyTile>(i);
    const ManyTileShape s = shape_of(tile);
    const ManyPlan plan = plan_many_as(tile, rows, n, k, sms);
    const int waves =
        ceil_div(plan.row_units * plan.column_units, sms / (s.rows_apart * s.columns_apart));
    const double cost = slowness_of(tile) * waves * s.rows * s.columns;
    if (best_cost == 0 || cost < best_cost) {
      best = plan;
      best_cost = cost;
    }
  }
  return best;
}

void check_many(const Fp8GemmParams& p) {
  check_columns(p.b.n, p.b.k);
  check_rows(p.a, p.b.k);
  if (p.segments < 1 || p.segments > kMaxSegments)
    fail("fp8 GEMM: {} output segments, at most {}", p.segments, kMaxSegments);
  int end = 0;
  for (int i = 0; i < p.segments; ++i) {
    const OutSegment& s = p.out[i];
    if (s.n_begin != end || s.n_end <= s.n_begin || s.n_begin % 64 != 0)
      fail("fp8 GEMM: output segment {} covers columns [{}, {}) after {}", i, s.n_begin, s.n_end,
           end);
    if (s.stride % 8 != 0) fail("fp8 GEMM: output row stride {}, need a multiple of 8", s.stride);
    end = s.n_end;
  }
  if (end != p.b.n) fail("fp8 GEMM: outputs end at column {} of {}", end, p.b.n);
}

void check_many(const Fp8GroupedParams& p) {
  check_columns(p.n, p.k);
  check_rows(p.a, p.k);
  if (p.experts < 1 || p.experts > 1000)
    fail("grouped fp8 GEMM: {} experts, from 1 to 1000 are supported", p.experts);
  if (p.out_stride % 8 != 0)
    fail("grouped fp8 GEMM: output row stride {}, need a multiple of 8", p.out_stride);
}

}  // namespace fathom::cuda
