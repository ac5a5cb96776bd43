#include "plan/cpu_times.h"

#include <algorithm>

#include "numerics/cache_rows.h"
#include "plan/step_times.h"

namespace fathom::plan {
namespace {

// Shares of the measured rates that one layer of the 671 B shapes reached on two cores: 93 % of
// plain reads when decoding, 57 % of the products of registers on a prompt of 512 tokens.
constexpr double kReadShare = 0.93, kProductShare = 0.57;

}  // namespace

// Of the routed experts that a rank holds, the share that a step reads.
double CpuTimes::expert_share(double tokens) const {
  const Config& c = config_;
  if (volume_.experts_held == 0) return 0;
  const double all = tokens * layout_.data;
  if (experts_by_columns(c, layout_) || layout_.ranks() == 1)
    return distinct_experts(c.experts, c.experts_per_token, all) / c.experts;
  return busiest_rank_experts(c, all, layout_.ranks()) / volume_.experts_held;
}

double CpuTimes::flops(double tokens, double pairs, double scored_pairs) const {
  const Config& c = config_;
  double weights = static_cast<double>(volume_.always_weights) * tokens;
  if (c.experts > 0)  // every token of every group passes its experts, which all ranks share
    weights += static_cast<double>(volume_.expert_weights) * tokens * layout_.data *
               c.experts_per_token / c.experts;
  const double heads = static_cast<double>(c.heads) / layout_.tensor;
  return 2 * weights + 2.0 * c.layers *
                           (heads * (2 * c.latent + c.rope) * pairs +
                            static_cast<double>(c.index_heads) * c.index_dim * scored_pairs);
}

double CpuTimes::decode_step(int sequences, int64_t context) const {
  if (read_rate_ <= 0) return 0;
  const Config& c = config_;
  const double keys =
      static_cast<double>(c.has_indexer() ? std::min<int64_t>(context, c.index_topk) : context);
  const bool scored = c.has_indexer() && context > c.index_topk;
  double row_bytes = keys * static_cast<double>(latent_row_bytes(KvFormat::bf16, c.latent, c.rope));
  if (scored)
    row_bytes += static_cast<double>(context) *
                 static_cast<double>(index_row_bytes(KvFormat::bf16, c.index_dim));
  const double bytes = static_cast<double>(volume_.always + volume_.head) +
                       static_cast<double>(volume_.experts) * expert_share(sequences) +
                       sequences * c.layers * row_bytes;
  const double reading = bytes / (kReadShare * read_rate_) * 1e6;
  if (product_rate_ <= 0) return reading;
  const double multiplied =
      flops(sequences, sequences * keys, scored ? sequences * static_cast<double>(context) : 0) +
      2 * static_cast<double>(volume_.head_weights) * sequences;
  return std::max(reading, multiplied / (kProductShare * product_rate_) * 1e6);
}

double CpuTimes::prompt(int64_t context, int /*step_tokens*/) const {
  if (product_rate_ <= 0) return 0;
  const double n = static_cast<double>(context);
  const double most = config_.has_indexer() ? std::min<double>(n, config_.index_topk) : n;
  const double all = n * (n + 1) / 2;
  const double pairs = most * (most + 1) / 2 + (n - most) * most;
  const double scored = config_.has_indexer() ? all - most * (most + 1) / 2 : 0;
  return flops(n, pairs, scored) / (kProductShare * product_rate_) * 1e6;
}

}  // namespace fathom::plan
