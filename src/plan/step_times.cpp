#include "plan/step_times.h"

#include <algorithm>
#include <cmath>

#include "numerics/cache_rows.h"

namespace fathom::plan {
namespace {

constexpr double kStepRest = 30;  // us a step: embedding, drawing, the start of a recorded graph

double part(double n, int parts) { return std::ceil(n / parts); }

// Columns of a split MLP on the rank that has most of its 128-blocks.
double mlp_columns(double n, int parts) {
  return std::min(n, part(std::ceil(n / kFp8Block), parts) * kFp8Block);
}

// Sum of min(p + 1, most) over positions [first, first + tokens).
double sum_of_keys(int64_t first, int tokens, double most) {
  const double a = static_cast<double>(first) + 1, b = a + tokens - 1;
  if (b <= most) return (a + b) / 2 * tokens;
  if (a > most) return most * tokens;
  return (a + most) / 2 * (most - a + 1) + most * (b - most);
}

}  // namespace

double distinct_experts(double experts, double per_token, double tokens) {
  if (experts <= 0) return 0;
  return experts * (1 - std::pow(1 - per_token / experts, tokens));
}

// Standard deviations that the greatest of so many draws lies above the mean, expected.
double expected_greatest(int draws) {
  constexpr double kOfPowers[] = {0, 0.564, 1.029, 1.424, 1.766, 2.070, 2.343, 2.595, 2.829};
  constexpr double kLast = std::size(kOfPowers) - 1;
  const double at = std::min(std::log2(draws), kLast);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, std::size(kOfPowers) - 1);
  return std::lerp(kOfPowers[below], kOfPowers[above], at - static_cast<double>(below));
}

// How much more than independent draws of experts spread over `ranks` ranks, as variances: the
// experts of a token lie in few groups, and these on few ranks.
double clustering(const Config& c, int ranks) {
  const double groups = c.groups, kept = c.kept_groups, k = c.experts_per_token, r = ranks;
  if (ranks > c.groups) return 1 + k * groups / (kept * r) * (1 - kept / groups);
  if (c.groups < 2) return 1;
  // Of the number of kept groups that lie on a rank.
  const double variance = kept / r * (1 - 1 / r) * (groups - kept) / (groups - 1);
  const double within = k * (1 / r - variance / (kept * kept) - 1 / (r * r));
  return ((k / kept) * (k / kept) * variance + within) / (k / r);
}

double busiest_rank_experts(const Config& c, double tokens, int ranks) {
  const double held = part(c.experts, ranks), k = c.experts_per_token;
  const double mean = distinct_experts(c.experts, k, tokens) / ranks;
  if (ranks == 1) return mean;
  const double share = std::min(1.0, mean / held);
  const double deviation = std::sqrt(held * share * (1 - share) * clustering(c, ranks));
  // The ranks share a total: where one has more, the others have less.
  const double together = std::sqrt(ranks / (ranks - 1.0));
  return std::min({held, k * tokens, mean + expected_greatest(ranks) * together * deviation});
}

double destinations(const Config& c, int ranks) {
  if (ranks == 1) return 0;
  const double groups = c.groups, kept = c.kept_groups;
  // Groups that the chosen experts lie in, of those that were kept.
  const double hit = kept * (1 - std::pow(1 - 1 / kept, c.experts_per_token));
  double reached;
  if (ranks <= c.groups) {
    double missed = 1;  // a rank with groups / ranks of the groups
    const double own = groups / ranks;
    for (double i = 0; i < own; ++i) missed *= std::max(0.0, 1 - hit / (groups - i));
    reached = ranks * (1 - missed);
  } else {
    const double choosable = kept * ranks / groups;
    reached = choosable * (1 - std::pow(1 - 1 / choosable, c.experts_per_token));
  }
  return reached * (ranks - 1) / ranks;
}

StepTimes::StepTimes(const Config& config, const RankLayout& layout, const GpuModel& gpu,
                     Numerics numerics, int per_node)
    : config_(config),
      layout_(layout),
      kernels_(gpu, numerics != Numerics::fp8),
      links_(gpu, per_node),
      wide_(numerics != Numerics::fp8) {}

StepTimes::Rows StepTimes::decode_rows(int sequences, int64_t context) const {
  Rows r;
  r.decode = true;
  r.tokens = sequences;
  r.context = context;
  const bool scores = config_.has_indexer() && context > config_.index_topk;
  const double keys = static_cast<double>(
      config_.has_indexer() ? std::min<int64_t>(context, config_.index_topk) : context);
  r.scored = scores ? sequences : 0;
  r.score_pairs = r.scored * static_cast<double>(context);
  r.pairs = sequences * keys;
  return r;
}

StepTimes::Rows StepTimes::prompt_rows(int tokens, int64_t first) const {
  Rows r;
  r.tokens = tokens;
  r.context = first + tokens;
  const double all = static_cast<double>(r.context);
  const double most = config_.has_indexer() ? config_.index_topk : all;
  r.pairs = sum_of_keys(first, tokens, most);
  if (config_.has_indexer() && all > most) {
    const double unscored = std::max(0.0, most - static_cast<double>(first));
    r.scored = tokens - unscored;
    r.score_pairs = (all + std::max(most, static_cast<double>(first)) + 1) / 2 * r.scored;
  }
  return r;
}

double StepTimes::attention(const Rows& r) const {
  const Config& c = config_;
  const KernelTimes& k = kernels_;
  const int heads = static_cast<int>(part(c.heads, layout_.tensor));
  const double width = 2.0 * c.latent + c.rope;
  const KvFormat format = wide_ ? KvFormat::bf16 : KvFormat::fp8;
  const double latent = static_cast<double>(latent_row_bytes(format, c.latent, c.rope));
  double us = k.product(r.tokens, c.q_rank + c.latent + c.rope + c.index_dim, c.hidden);
  us += k.product(r.tokens, heads * c.qk_dim() + c.index_heads * c.index_dim, c.q_rank);
  if (c.has_indexer()) us += k.half_product(r.tokens, c.index_heads, c.hidden);
  const double index = static_cast<double>(index_row_bytes(format, std::max(1, c.index_dim)));
  const double context = static_cast<double>(r.context);
  if (r.scored > 0 && r.decode)
    us += k.decode_scores(r.scored, context, index) + k.top_k(r.scored, context);
  if (r.scored > 0 && !r.decode)  // the rows of a prompt are shared out
    us += k.prompt_scores(r.score_pairs / layout_.tensor, c.index_heads, c.index_dim) +
          k.top_k(r.scored / layout_.tensor, context);
  us += k.half_product(r.tokens, 1.0 * heads * c.latent, c.nope);
  us += r.decode ? k.decode_attention(r.tokens, r.pairs / r.tokens, heads, width, latent)
                 : k.prompt_attention(r.pairs, heads, width);
  us += k.half_product(r.tokens, 1.0 * heads * c.value, c.latent);
  return us + k.product(r.tokens, c.hidden, 1.0 * heads * c.value);
}

double StepTimes::experts(double tokens) const {
  const Config& c = config_;
  const int ranks = layout_.ranks();
  const double all = tokens * layout_.data;  // of every group
  double active = distinct_experts(c.experts, c.experts_per_token, all);
  double columns = c.moe_intermediate, rows = all * c.experts_per_token;
  if (experts_by_columns(c, layout_)) {
    columns /= ranks;
  } else {
    active = busiest_rank_experts(c, all, ranks);
    rows /= ranks;
  }
  return kernels_.grouped(rows, active, 2 * columns, c.hidden) +
         kernels_.grouped(rows, active, c.hidden, columns);
}

double StepTimes::exchange(bool moe, const Rows& r) const {
  const Config& c = config_;
  const int t = layout_.tensor, ranks = layout_.ranks();
  const double row = 2.0 * c.hidden;
  double us = links_.sum(t, r.tokens, row);  // of what attention adds
  if (r.scored > 0 && !r.decode) us += links_.gather(t, 4.0 * r.scored * c.index_topk);
  if (!moe || layout_.data == 1) return us + links_.sum(t, r.tokens, row);
  // Rows go to the ranks of their experts in FP8 with scales and come back in bf16; those of a
  // group are its ranks' in equal parts.
  const double sent = r.tokens / t * destinations(c, ranks);
  const double coded = wide_ ? row : c.hidden + 4.0 * c.hidden / kFp8Block;
  us += links_.send_rows(ranks, sent * coded) + links_.bring_rows(ranks, sent * row);
  us += links_.rest_of_others(sent);  // as many come from others
  return us + links_.gather(t, r.tokens * row);
}

LayerTime StepTimes::layer(bool moe, const Rows& r) const {
  const Config& c = config_;
  LayerTime time;
  time.attention = attention(r);
  const double columns = mlp_columns(
      moe ? 1.0 * c.moe_intermediate * c.shared_experts : c.intermediate, layout_.tensor);
  if (columns > 0)
    time.mlp = kernels_.product(r.tokens, 2 * columns, c.hidden) +
               kernels_.product(r.tokens, c.hidden, columns);
  if (moe) time.mlp += kernels_.half_product(r.tokens, c.experts, c.hidden) + experts(r.tokens);
  time.exchange = exchange(moe, r);
  time.rest = kernels_.rest_of_layer(r.tokens);
  return time;
}

LayerTime StepTimes::decode_layer(bool moe, int sequences, int64_t context) const {
  return layer(moe, decode_rows(sequences, context));
}

LayerTime StepTimes::prompt_layer(bool moe, int tokens, int64_t first) const {
  return layer(moe, prompt_rows(tokens, first));
}

double StepTimes::layers(const Rows& rows) const {
  int moe = 0;
  for (int l = 0; l < config_.layers; ++l) moe += config_.is_moe(l);
  double us = kStepRest;
  if (moe > 0) us += moe * layer(true, rows).total();
  if (moe < config_.layers) us += (config_.layers - moe) * layer(false, rows).total();
  return us;
}

double StepTimes::head(double rows) const {
  return kernels_.half_product(rows, part(config_.vocab, layout_.tensor), config_.hidden) +
         links_.gather(layout_.tensor, 4.0 * rows * config_.vocab);
}

double StepTimes::decode_step(int sequences, int64_t context) const {
  return layers(decode_rows(sequences, context)) + head(sequences);
}

double StepTimes::prompt_chunk(int tokens, int64_t first) const {
  return layers(prompt_rows(tokens, first));
}

double StepTimes::prompt(int64_t context, int step_tokens) const {
  double us = head(1);
  for (int64_t first = 0; first < context; first += step_tokens)
    us += prompt_chunk(static_cast<int>(std::min<int64_t>(step_tokens, context - first)), first);
  return us;
}

}  // namespace fathom::plan
