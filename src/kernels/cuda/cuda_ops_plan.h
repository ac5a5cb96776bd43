// What CudaOps decides on the host: plain functions of sizes and pointers, tested without a GPU.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/rounding.h"
#include "kernels/cuda/cuda_ops.h"

namespace fathom::cuda {

inline constexpr int64_t kScratchAlign = 256;

// Strides of group-major scales are multiples of 4, so that a group starts at 16 bytes.
constexpr int64_t scale_stride_of(int64_t rows) { return round_up(rows, 4); }
// Codes and scales of quantised rows, each from an aligned address on.
constexpr int64_t coded_bytes(int64_t rows, int64_t n) {
  return round_up(rows * n, kScratchAlign) +
         round_up(ceil_div(n, kFp8Block) * scale_stride_of(rows) * 4, kScratchAlign);
}

// Projections whose weights lie one after another in memory are one product with several outputs.
inline constexpr int kMaxMerged = 4;
struct ProjectionGroup {
  QWeight weight;  // all of them
  int count = 0;
  const Projection* parts[kMaxMerged] = {};
};
// Groups in order of memory. `groups` has room for one each. Returns their number.
int group_projections(std::span<const Projection> projections, std::span<ProjectionGroup> groups);

// Experts of a layer as the grouped products take them: one array of stacked gate and up, one of
// down. Fails when they do not lie like that.
struct ExpertArrays {
  const void* up = nullptr;    // [E, 2 I, D]
  const void* down = nullptr;  // [E, D, I]
  const float* up_scales = nullptr;
  const float* down_scales = nullptr;
  int experts = 0, hidden = 0, intermediate = 0;
  bool fp8 = false;
};
ExpertArrays expert_arrays(std::span<const MlpWeights> experts);

// Gate and up one after another: a single product.
bool stacked(const MlpWeights& w);

// Contexts a recorded step is good for: at most top-k, then powers of two, at most `most`.
int64_t context_limit(int64_t context, int64_t topk, int64_t most);

// Tokens whose index scores over `context` positions fit the budget; at least one.
int score_tile(int64_t budget, int64_t context, int tokens);

// Consecutive spans of one attention form that the same kernel serves.
struct AttentionRun {
  int begin = 0, end = 0;  // tokens
  bool decode = false;     // few tokens a sequence: keys are split
};
inline constexpr int kDecodeSpan = 5;      // longest span of a decode run: a token and its drafts
inline constexpr int kDecodeTile = 256;    // tokens of one call; bounds the partial results
inline constexpr int kPrefillTile = 2048;  // bounds the queries and outputs in latent space
// Tokens of a step whose shared expert gains by running beside the others.
inline constexpr int kBranchTokens = 32;
// With `one_kernel` every run is a decode run: what recorded steps use must serve all.
std::vector<AttentionRun> attention_runs(std::span<const AttentionSpan> spans, AttentionForm form,
                                         bool one_kernel);

// Bytes of scratch the largest op needs at once.
int64_t scratch_bytes(Numerics numerics, const Workload& w);
// Widest input of a product.
int64_t widest_input(const Workload& w);
int64_t max_pages(const Workload& w);

// How one step's inputs lie in the staging buffer. Page tables come last: their number may differ
// from replay to replay, everything before depends on the number of tokens alone.
struct StagingPlan {
  int64_t live = 0, ids = 0, positions = 0, sequence_of = 0, logit_rows = 0, carried = 0;
  int64_t page_tables = 0;
  int64_t bytes = 0;
};
StagingPlan plan_staging(int tokens, int sequences, int pages);

constexpr int kDefaultSms = 132;  // H100 SXM and H200, for sizes asked for without a GPU

// What is carved from the one allocation of CudaOps, in bytes, in this order.
struct OpsMemory {
  int64_t inputs = 0, coded = 0, permutation = 0, workspace = 0, scratch = 0;
  int64_t total() const { return inputs + coded + permutation + workspace + scratch; }
};
OpsMemory plan_memory(Numerics numerics, const Workload& w, int sms);

// Throws Error for numerics and dims that the kernels are not built for.
void check_workload(Numerics numerics, const Workload& w);

// Sequences a step may have: tables of pages that are staged.
constexpr int step_sequences(const Workload& w) {
  return w.sequences > 0 ? w.sequences : w.step_tokens;
}

}  // namespace fathom::cuda
