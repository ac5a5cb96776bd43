// Tile choice of the few-rows FP8 product: plain host code, no device call.
#pragma once

#include <cstddef>

namespace fathom::cuda {

// One CTA works on tiles of 64 * groups weight rows x `tokens` activation rows.
struct FewPlan {
  int tokens = 16;  // 8, 16, 32, 64 or 128
  int groups = 1;   // math warpgroups, 64 weight rows each: 1, or 2 up to 64 tokens
  int splits = 1;   // CTAs of a cluster that share the K of one tile: 1 to kMaxSplits
  int stages = 4;   // slices of 128 along k in flight
  int ctas = 1;     // grid size, a multiple of splits
  size_t smem = 0;  // dynamic shared memory of a CTA, bytes
};

// The largest portable cluster.
inline constexpr int kMaxSplits = 8;
// Most rows the few-rows kernel takes in a dense product.
inline constexpr int kFewRows = 128;
// Most experts whose row counts fit the tile table in shared memory.
inline constexpr int kFewExperts = 2048;

// Shared memory of a CTA with that plan. `experts` = 0 for a dense product.
size_t few_smem(const FewPlan& plan, int experts);

// `rows` in [1, kFewRows].
FewPlan plan_few_dense(int rows, int n, int k, int sms, bool batch_invariant);

// Whether a dense product of so many rows is one for this kernel.
bool dense_is_few(int rows, int n);

// Whether a grouped product is one for this kernel: experts have few rows on average, so that
// reading their weights decides. `tokens` of the step bound the rows of any one expert.
bool grouped_is_few(int rows, int tokens, int experts);

// `tokens` of the step bound the rows of one expert, `rows` those of all.
FewPlan plan_few_grouped(int rows, int tokens, int experts, int n, int sms);

}  // namespace fathom::cuda
