#include "kernels/cuda/gemm/fp8_few_plan.h"

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/gemm/fp8_few_layout.h"

namespace fathom::cuda {
namespace {

// Shared memory of a CTA when two share an SM: each also pays 1 KB to the system.
constexpr size_t kHalfSm = 113 * 1024;
constexpr size_t kWholeSm = 227 * 1024;

int tile_tokens(int rows) {
  for (int t : {8, 16, 32, 64})
    if (rows <= t) return t;
  return 128;
}

int fit_stages(FewPlan plan, int experts, int slices, size_t budget) {
  plan.stages = 1;
  const size_t one = few_smem(plan, experts);
  const size_t stage = FewLayout::stage_bytes(plan.tokens, plan.groups) +
                       FewLayout::stage_scale_bytes(plan.tokens) + 2 * sizeof(uint64_t);
  const int fit = 1 + static_cast<int>((budget - one) / stage);
  return std::clamp(std::min(fit, slices), 1, FewLayout::kMaxStages);
}

}  // namespace

size_t few_smem(const FewPlan& plan, int experts) {
  return FewLayout(plan.tokens, plan.groups, plan.stages, experts).total;
}

FewPlan plan_few_dense(int rows, int n, int k, int sms, bool batch_invariant) {
  const int slices = k / 128;
  FewPlan plan;
  plan.tokens = tile_tokens(rows);
  plan.groups = n > 64 ? 2 : 1;
  const int tiles = (n + 64 * plan.groups - 1) / (64 * plan.groups);
  if (!batch_invariant)
    while (plan.splits < 8 && tiles * plan.splits * 2 <= 2 * sms && slices / plan.splits >= 4)
      plan.splits *= 2;
  plan.ctas = tiles * plan.splits;
  const size_t budget = FewLayout::ctas_per_sm(plan.tokens, plan.groups) == 2 ? kHalfSm : kWholeSm;
  plan.stages = fit_stages(plan, 0, (slices + plan.splits - 1) / plan.splits, budget);
  plan.smem = few_smem(plan, 0);
  return plan;
}

bool grouped_is_few(int rows, int tokens, int experts) {
  return experts <= kFewExperts && (tokens <= 64 || int64_t{rows} <= int64_t{32} * experts);
}

FewPlan plan_few_grouped(int rows, int tokens, int experts, int n, int k, int sms) {
  FewPlan plan;
  plan.tokens = std::min(tile_tokens(std::min(rows, tokens)), 64);
  plan.groups = n > 64 ? 2 : 1;
  const int per_sm = FewLayout::ctas_per_sm(plan.tokens, plan.groups);
  const size_t budget = per_sm == 2 ? kHalfSm : kWholeSm;
  // No more CTAs than there can be tiles: every expert with rows may end in a partial tile.
  const int n_tiles = (n + 64 * plan.groups - 1) / (64 * plan.groups);
  const int64_t row_tiles = std::min<int64_t>(rows, experts + rows / plan.tokens);
  plan.ctas = static_cast<int>(std::min<int64_t>(row_tiles * n_tiles, int64_t{per_sm} * sms));
  plan.stages = fit_stages(plan, experts, FewLayout::kMaxStages, budget);
  (void)k;
  plan.smem = few_smem(plan, experts);
  return plan;
}

}  // namespace fathom::cuda
