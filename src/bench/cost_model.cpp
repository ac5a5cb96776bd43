#include "bench/cost_model.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "model/tensor_list.h"

namespace fathom {
namespace {

int64_t blocks(int64_t n) { return (n + kFp8Block - 1) / kFp8Block; }

int64_t nominal_bytes(const TensorSpec& spec, bool fp8) {
  const int64_t rows = spec.shape[0], cols = spec.shape[1];
  if (!fp8 || spec.kind != Kind::matrix) return 2 * rows * cols;
  return rows * cols + 4 * blocks(rows) * blocks(cols);
}

void add(const Config& c, const TensorSpec& spec, int64_t bytes, ModelVolumes& to) {
  if (spec.layer >= c.layers) return;  // MTP: neither prefill nor plain decoding runs it
  Volume& v = spec.expert >= 0                        ? to.experts
              : spec.layer < 0 && spec.name[0] == 'l' ? to.head  // lm_head
              : spec.layer < 0                        ? to.embed
              : spec.name.ends_with("indexer.wq_b.weight") ||
                      spec.name.ends_with("indexer.weights_proj.weight")
                  ? to.index_query
                  : to.always;
  v.parameters += spec.shape[0] * spec.shape[1];
  v.bytes += bytes;
}

ModelVolumes with_experts(const Config& c, ModelVolumes v) {
  for (int l = 0; l < c.layers; ++l) v.expert_count += c.is_moe(l) ? c.experts : 0;
  return v;
}

}  // namespace

Volume ModelVolumes::expert() const {
  const int64_t n = std::max<int64_t>(1, expert_count);
  return {experts.parameters / n, experts.bytes / n};
}

int64_t ModelVolumes::parameters() const {
  return always.parameters + index_query.parameters + experts.parameters + head.parameters +
         embed.parameters;
}

int64_t ModelVolumes::bytes() const {
  return always.bytes + index_query.bytes + experts.bytes + head.bytes + embed.bytes;
}

ModelVolumes volumes_of(const Config& c) {
  ModelVolumes v;
  for (const TensorSpec& spec : tensor_list(c))
    if (spec.shape.size() == 2) add(c, spec, nominal_bytes(spec, c.fp8), v);
  return with_experts(c, v);
}

ModelVolumes volumes_of(const Config& c, const Weights& weights) {
  ModelVolumes v;
  Weights views = weights;  // for_each_tensor takes a reference it may change
  for_each_tensor(c, views, [&](const TensorSpec& spec, WeightSlot slot) {
    // for_each_tensor adds an empty MTP block, which counts nothing.
    if (slot.matrix) add(c, spec, slot.matrix->empty() ? 0 : slot.matrix->bytes(), v);
  });
  return with_experts(c, v);
}

StepCost& StepCost::operator+=(const StepCost& o) {
  bytes.weights += o.bytes.weights;
  bytes.experts += o.bytes.experts;
  bytes.cache += o.bytes.cache;
  flops.projections += o.flops.projections;
  flops.experts += o.flops.experts;
  flops.indexer += o.flops.indexer;
  flops.attention += o.flops.attention;
  flops.head += o.flops.head;
  return *this;
}

CostModel::CostModel(const Config& config, const ModelVolumes& volumes, const KvShape& cache,
                     AttentionMode attention, const FormPolicy& forms)
    : config_(config),
      volumes_(volumes),
      cache_(cache),
      sparse_(attention == AttentionMode::sparse && config.has_indexer()),
      forms_(forms) {
  for (int l = 0; l < config.layers; ++l) moe_layers_ += config.is_moe(l);
}

double CostModel::expected_expert_reads(int tokens) const {
  if (config_.experts == 0) return 0;
  const double miss = 1 - static_cast<double>(config_.experts_per_token) / config_.experts;
  return moe_layers_ * config_.experts * (1 - std::pow(miss, tokens));
}

StepCost CostModel::step(std::span<const SequenceRun> runs, int logit_rows,
                         double expert_reads) const {
  StepCost cost;
  double tokens = 0;
  for (const SequenceRun& run : runs) {
    FATHOM_CHECK(run.tokens > 0 && run.first >= 0, "{} tokens at {}", run.tokens, run.first);
    tokens += run.tokens;
    attend(run, cost);
  }
  Volume in_layers = volumes_.always;
  if (sparse_) {
    in_layers.parameters += volumes_.index_query.parameters;
    in_layers.bytes += volumes_.index_query.bytes;
  }
  const double expert_bytes = static_cast<double>(volumes_.expert().bytes);
  const double expert_weights = static_cast<double>(volumes_.expert().parameters);

  cost.bytes.weights = static_cast<double>(in_layers.bytes) +
                       tokens * static_cast<double>(volumes_.embed.bytes) / config_.vocab +
                       (logit_rows > 0 ? static_cast<double>(volumes_.head.bytes) : 0.0);
  cost.bytes.experts = expert_reads * expert_bytes;
  cost.flops.projections = 2 * tokens * static_cast<double>(in_layers.parameters);
  cost.flops.experts = 2 * tokens * config_.experts_per_token * moe_layers_ * expert_weights;
  cost.flops.head = 2.0 * logit_rows * static_cast<double>(volumes_.head.parameters);
  return cost;
}

// The part that depends on positions: indexer, attention and the cache.
void CostModel::attend(const SequenceRun& run, StepCost& cost) const {
  double pairs_expanded = 0, pairs_absorbed = 0, scores = 0;
  double wanted = 0;  // latent rows, were no row shared between the tokens of the run
  bool scored = false;
  for (int t = 0; t < run.tokens; ++t) {
    const int64_t keys = run.first + t + 1;
    const int64_t picked = sparse_ ? std::min<int64_t>(keys, config_.index_topk) : keys;
    // A row of at most top-k candidates takes all of them unscored.
    if (keys > picked) scores += static_cast<double>(keys), scored = true;
    if (forms_.form(run.first + t, run.decode) == AttentionForm::expanded) {
      pairs_expanded += static_cast<double>(keys);  // all of them, the unpicked ones masked
      wanted += static_cast<double>(keys);
    } else {
      pairs_absorbed += static_cast<double>(picked);
      wanted += static_cast<double>(picked);
    }
  }
  const Config& c = config_;
  const double end = static_cast<double>(run.first + run.tokens);
  const double latent = static_cast<double>(cache_.latent_stride());
  const double index = static_cast<double>(cache_.index_stride());
  const double read = std::min(wanted, end) * latent + (scored ? end * index : 0.0);
  cost.bytes.cache += c.layers * (read + run.tokens * (latent + index));
  cost.flops.indexer += c.layers * 2.0 * c.index_heads * c.index_dim * scores;
  cost.flops.attention +=
      c.layers * 2.0 * c.heads *
      (pairs_expanded * (c.nope + c.rope + c.value) + pairs_absorbed * (2 * c.latent + c.rope));
}

}  // namespace fathom
