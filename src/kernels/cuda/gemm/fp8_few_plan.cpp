#include "kernels/cuda/gemm/fp8_few_plan.h"

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/gemm/fp8_few_layout.h"

namespace fathom::cuda {
namespace {

// Shared memory of a CTA that has an SM for itself, or shares it with one more (each also pays 1 KB
// to the system).
constexpr size_t kWholeSm = 227 * 1024;
constexpr size_t kHalfSm = 113 * 1024;

// Clusters of that many CTAs that run at once on 132 SMs, one CTA an SM: a cluster must fit into
// one group of SMs, and those have 16 or 18. One cluster too many costs a whole second round.
constexpr int kClusters[kMaxSplits + 1] = {0, 132, 66, 39, 30, 22, 17, 15, 15};

// With more slices than this the loop along k is long enough to need the deepest ring. Shorter
// loops gain more from two CTAs an SM, whose starts and ends overlap.
constexpr int kLongSlices = 16;

int div_up(int a, int b) { return (a + b - 1) / b; }

int tile_tokens(int rows) {
  for (int t : {8, 16, 32, 64})
    if (rows <= t) return t;
  return 128;
}

// As many parts as run at once, unless they get too short to pay for adding them up: 12 slices of
// k each, or 6 while half of the SMs would have nothing to do.
int split(int tiles, int slices, int sms) {
  for (int s = kMaxSplits; s > 1; --s) {
    const bool fits = tiles <= kClusters[s] * sms / 132;
    const int shortest = tiles * s <= sms / 2 ? 6 : 12;
    if (fits && slices / s >= shortest) return s;
  }
  return 1;
}

int fit_stages(FewPlan plan, int experts, int slices, size_t budget) {
  plan.stages = 1;
  while (plan.stages < std::min(slices, FewLayout::kMaxStages)) {
    ++plan.stages;
    if (few_smem(plan, experts) <= budget) continue;
    --plan.stages;
    break;
  }
  return plan.stages;
}

}  // namespace

size_t few_smem(const FewPlan& plan, int experts) {
  return FewLayout(plan.tokens, plan.groups, plan.stages, experts).total;
}

// The activations of a tile are read from L2 once a tile. So wide token tiles with few weight rows
// move more bytes. Narrow ones load so little that larger tiles (fewer CTAs, split along k) win.
FewPlan plan_few_dense(int rows, int n, int k, int sms, bool batch_invariant) {
  const int slices = k / FewLayout::kSlice;
  const int narrow = div_up(n, 64), wide = div_up(n, 128);
  const bool long_k = slices > kLongSlices;
  FewPlan plan;
  plan.tokens = tile_tokens(rows);
  if (plan.tokens == 128)
    plan.groups = 1;  // two groups and 128 tokens would leave no registers to overlap promotion
  else if (narrow > sms)
    plan.groups = 2;
  else
    plan.groups = plan.tokens <= 32 && long_k && !batch_invariant ? 2 : 1;
  const int tiles = plan.groups == 2 ? wide : narrow;
  if (!batch_invariant) plan.splits = split(tiles, slices, sms);
  plan.ctas = tiles * plan.splits;
  const bool whole = long_k || FewLayout::ctas_per_sm(plan.tokens, plan.groups) == 1;
  plan.stages = fit_stages(plan, 0, div_up(slices, plan.splits), whole ? kWholeSm : kHalfSm);
  plan.smem = few_smem(plan, 0);
  return plan;
}

// Measured on an H200 at 32, 48, 64, 96 and 128 rows of the model's products. Narrow products leave
// most SMs without a tile; only the few-rows kernel splits them along k.
bool dense_is_few(int rows, int n) { return rows <= 32 || (rows <= kFewRows && n < 2048); }

bool grouped_is_few(int rows, int tokens, int experts) {
  // Measured: both take the same time at 32 rows an expert. At 128 rows the many-rows kernel, whose
  // tile of 256 rows reads the weights of nearly every expert once, takes 0.7 of the time.
  return experts <= kFewExperts && (tokens <= 128 || int64_t{rows} <= int64_t{48} * experts);
}

FewPlan plan_few_grouped(int rows, int tokens, int experts, int n, int sms) {
  FewPlan plan;
  plan.groups = 1;
  // An expert with more rows than a tile reads its weights again, from L2. A tile of twice the
  // average rows avoids that for most.
  const int most = static_cast<int>(std::min<int64_t>(
      std::min(rows, tokens), std::max(int64_t{2} * rows / experts, int64_t{17})));
  plan.tokens = tile_tokens(most);
  const int per_sm = FewLayout::ctas_per_sm(plan.tokens, plan.groups);
  // No more CTAs than there can be tiles: every expert with rows may end in a partial tile.
  const int64_t row_tiles = std::min<int64_t>(rows, experts + rows / plan.tokens);
  plan.ctas = static_cast<int>(std::min<int64_t>(row_tiles * div_up(n, 64), int64_t{per_sm} * sms));
  plan.stages = fit_stages(plan, experts, FewLayout::kMaxStages, per_sm == 2 ? kHalfSm : kWholeSm);
  plan.smem = few_smem(plan, experts);
  return plan;
}

}  // namespace fathom::cuda
