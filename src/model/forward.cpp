#include "model/forward.h"

#include <algorithm>
#include <cmath>

namespace fathom {
namespace {

DType activation_dtype(Numerics n) { return n == Numerics::exact ? DType::f32 : DType::bf16; }

// The bytes of a host tensor's values in another activation dtype.
std::vector<std::byte> converted(Tensor x, DType to) {
  std::vector<std::byte> bytes(static_cast<size_t>(x.size()) * size_of(to));
  Tensor out(bytes.data(), to, {x.rows(), x.row_size()});
  for (int64_t t = 0; t < x.rows(); ++t)
    for (int64_t i = 0; i < x.row_size(); ++i) {
      float v = x.dtype == DType::f32 ? x.row<float>(t)[i] : to_float(x.row<Bf16>(t)[i]);
      if (to == DType::f32)
        out.row<float>(t)[i] = v;
      else
        out.row<Bf16>(t)[i] = to_bf16(v);
    }
  return bytes;
}

size_t state_bytes(const Config& c, const ForwardOptions& o) {
  return static_cast<size_t>(o.step_tokens) * static_cast<size_t>(c.hidden) *
         size_of(activation_dtype(o.numerics));
}

// Of the tokens of all groups: see Forward::AllTokens.
int64_t all_tokens_bytes(const Config& c, const ForwardOptions& o) {
  if (o.groups == 1) return 0;
  const int64_t row = c.hidden * static_cast<int64_t>(size_of(activation_dtype(o.numerics)));
  const int64_t of_all = 2 * row + 8LL * c.experts_per_token;
  return (of_all * o.groups + row) * o.step_tokens + 5 * 256;
}

}  // namespace

int64_t activation_bytes(const Config& c, const ForwardOptions& o) {
  // Every tensor of Activations, counted as float32, and slack for alignment.
  int64_t per_token = 5LL * c.hidden + c.q_rank + c.latent + c.rope +
                      c.heads * int64_t{c.qk_dim() + c.value} + 2LL * c.index_heads * c.index_dim +
                      c.index_dim + c.index_heads + c.index_topk + 2LL * c.experts_per_token;
  if (o.mtp) per_token += 2LL * c.hidden + 1;  // states_, said_, from_
  return 4 * per_token * o.step_tokens + 32 * 256 + all_tokens_bytes(c, o);
}

// The named intermediate results of one step.
struct Forward::Activations {
  Tensor residual;       // [T, hidden]
  Tensor normed;         // [T, hidden]
  Tensor update;         // [T, hidden]
  Tensor combined;       // [T, 2 * hidden]           MTP input
  Tensor q_low;          // [T, q_rank]
  Tensor q;              // [T, heads, nope + rope]
  Tensor kv_a;           // [T, latent + rope]
  Tensor attended;       // [T, heads * value]
  Tensor index_q;        // [T, index_heads, index_dim]
  Tensor index_q8;       // the same after rope and rotation; e4m3 codes in fp8 numerics
  Tensor index_k;        // [T, index_dim]
  Tensor head_weight;    // [T, index_heads] f32
  Tensor picked;         // [T, index_topk] i32; empty in a dense run
  Tensor expert_ids;     // [T, experts_per_token] i32
  Tensor expert_weight;  // [T, experts_per_token] f32
};

Forward::Forward(const Config& config, const Weights& weights, Ops& ops, Comm& comm, Comm* all,
                 const ForwardOptions& options)
    : config_(config),
      weights_(weights),
      ops_(ops),
      comm_(comm),
      options_(options),
      sparse_(options.attention == AttentionMode::sparse && config.has_indexer()),
      all_(all),
      arena_(static_cast<size_t>(activation_bytes(config, options) -
                                 all_tokens_bytes(config, options)),
             ops.memory()),
      all_memory_(static_cast<size_t>(all_tokens_bytes(config, options)), ops.memory()),
      states_(options.mtp ? state_bytes(config, options) : 0, ops.memory()),
      said_(options.mtp ? state_bytes(config, options) : 0, ops.memory()),
      from_(options.mtp ? static_cast<size_t>(options.step_tokens) * sizeof(int32_t) : 0,
            ops.memory()),
      rope_memory_(static_cast<size_t>(options.context + 1) * config.rope * sizeof(float),
                   ops.memory()) {
  std::vector<float> f =
      rope_frequencies(config.rope, config.rope_theta, config.yarn ? &*config.yarn : nullptr);
  std::vector<float> table(rope_memory_.size() / sizeof(float));
  float* cos = table.data();
  float* sin = cos + (options.context + 1) * (config.rope / 2);
  for (int64_t pos = 0; pos <= options.context; ++pos)
    for (int i = 0; i < config.rope / 2; ++i) {
      float angle = static_cast<float>(pos) * f[i];
      *cos++ = std::cos(angle);
      *sin++ = std::sin(angle);
    }
  ops_.upload(rope_memory_.data(), table.data(), rope_memory_.size());
  if (!all_) return;
  const int64_t tokens = int64_t{options.groups} * options.step_tokens;
  const DType act = activation_dtype(options.numerics);
  const int64_t k = config.experts_per_token;
  AllTokens& x = all_tokens_;
  x.rows.hidden = all_memory_.tensor(act, {tokens, config.hidden});
  x.rows.ids = all_memory_.tensor(DType::i32, {tokens, k});
  x.rows.weights = all_memory_.tensor(DType::f32, {tokens, k});
  x.update = all_memory_.tensor(act, {tokens, config.hidden});
  x.sum = all_memory_.tensor(act, {options.step_tokens, config.hidden});
}

// `offset` is added to every position: a token of the MTP block stands one position after its cache
// slot.
RopeTable Forward::rope(int offset) const {
  int64_t pairs = config_.rope / 2;
  const float* cos = reinterpret_cast<const float*>(rope_memory_.data());
  const float* sin = cos + (options_.context + 1) * pairs;
  return {cos + offset * pairs, sin + offset * pairs, config_.rope, options_.context + 1 - offset};
}

Forward::Activations Forward::activations(int tokens) {
  const Config& c = config_;
  DType act = activation_dtype(options_.numerics);
  int64_t t = tokens;
  arena_.reset();
  Activations a;
  a.residual = arena_.tensor(act, {t, c.hidden});
  a.normed = options_.mtp ? rows_of(states_, t) : arena_.tensor(act, {t, c.hidden});
  a.update = arena_.tensor(act, {t, c.hidden});
  a.combined = arena_.tensor(act, {t, 2LL * c.hidden});
  a.q_low = arena_.tensor(act, {t, c.q_rank});
  a.q = arena_.tensor(act, {t, c.heads, c.qk_dim()});
  a.kv_a = arena_.tensor(act, {t, c.latent + c.rope});
  a.attended = arena_.tensor(act, {t, int64_t{c.heads} * c.value});
  if (c.has_indexer()) {
    DType q8 = options_.numerics == Numerics::fp8 ? DType::fp8_e4m3 : act;
    a.index_q = arena_.tensor(act, {t, c.index_heads, c.index_dim});
    a.index_q8 = arena_.tensor(q8, {t, c.index_heads, c.index_dim});
    a.index_k = arena_.tensor(act, {t, c.index_dim});
    a.head_weight = arena_.tensor(DType::f32, {t, c.index_heads});
  }
  if (sparse_) a.picked = arena_.tensor(DType::i32, {t, c.index_topk});
  if (c.experts > 0) {
    a.expert_ids = arena_.tensor(DType::i32, {t, c.experts_per_token});
    a.expert_weight = arena_.tensor(DType::f32, {t, c.experts_per_token});
  }
  return a;
}

void Forward::step(const StepBatch& batch, std::span<const KvView> kv, Tensor logits) {
  if (batch.tokens() == 0) return serve_others(0);
  Activations a = activations(batch.tokens());
  const StepInputs in = ops_.begin_step(batch.inputs());
  ops_.embed(a.residual, in.ids, weights_.embed);
  run_layers(0, a, in.batch, kv);
  head(a.update, a.normed, in.logit_rows, logits);
}

void Forward::step_from(int first, Tensor hidden, const StepBatch& batch,
                        std::span<const KvView> kv, Tensor logits) {
  if (batch.tokens() == 0) return serve_others(first);
  Activations a = activations(batch.tokens());
  const StepInputs in = ops_.begin_step(batch.inputs());
  std::vector<std::byte> rows = converted(hidden, a.residual.dtype);
  ops_.upload(a.residual.data, rows.data(), rows.size());
  run_layers(first, a, in.batch, kv);
  head(a.update, a.normed, in.logit_rows, logits);
}

// Leaves the state after the final norm in a.normed.
void Forward::run_layers(int first, const Activations& a, const BatchView& batch,
                         std::span<const KvView> kv) {
  FATHOM_CHECK(static_cast<int>(kv.size()) >= config_.layers, "{} cache layers for {} layers",
               kv.size(), config_.layers);
  auto norm_of = [&](int l) {
    return l < config_.layers ? weights_.layers[l].attention_norm : weights_.norm;
  };
  ops_.rms_norm(a.normed, a.residual, norm_of(first), config_.norm_eps);
  for (int l = first; l < config_.layers; ++l)
    block(l, weights_.layers[l], norm_of(l + 1), a, batch, kv[l], rope(0));
}

// One decoder layer (spec 2): a.normed holds its normed input on entry and the next layer's, under
// `next_norm`, on return.
void Forward::block(int layer, const LayerWeights& w, const float* next_norm, const Activations& a,
                    const BatchView& batch, const KvView& kv, const RopeTable& rope) {
  ops_.enter_layer(layer);
  attention(w.attention, a, batch, kv, rope);
  add_update(a, w.ffn_norm);
  if (all_ && w.is_moe) {
    const Tensor sum = all_tokens_.sum.slice(0, a.normed.rows());
    ffn_of_all(w, a, sum);
    return ops_.add_rms_norm(a.normed, a.residual, sum, next_norm, config_.norm_eps);
  }
  ffn(w, a);
  add_update(a, next_norm);
}

// residual += update, of which each rank has a part; normed = rms_norm(residual) under `gain`.
void Forward::add_update(const Activations& a, const float* gain) {
  const float eps = config_.norm_eps;
  if (comm_.all_reduce_add_rms_norm(a.normed, a.residual, a.update, gain, eps)) return;
  comm_.all_reduce(a.update);
  ops_.add_rms_norm(a.normed, a.residual, a.update, gain, eps);
}

// Multi-head latent attention over the positions the lightning indexer picks (spec 2.1, 2.2).
void Forward::attention(const AttentionWeights& w, const Activations& a, const BatchView& batch,
                        const KvView& kv, const RopeTable& rope) {
  const IndexerWeights& index = w.indexer;
  const float eps = config_.norm_eps;
  const Projection inputs[] = {{a.q_low, w.q_a},                     // [T, q_rank]
                               {a.kv_a, w.kv_a},                     // [T, latent + rope]
                               {a.index_k, index.k},                 // [T, index_dim]
                               {a.head_weight, index.head_weight}};  // [T, index_heads]
  ops_.project(std::span(inputs, config_.has_indexer() ? 4 : 2), a.normed);
  ops_.rms_norm(a.q_low, a.q_low, w.q_norm, eps);

  const Projection queries[] = {{a.q, w.q_b},             // [T, heads, nope + rope]
                                {a.index_q, index.q_b}};  // [T, index_heads, index_dim]
  ops_.project(std::span(queries, sparse_ ? 2 : 1), a.q_low);
  ops_.rope_query(a.q, batch, rope);

  ops_.append_latent(kv, a.kv_a, w.kv_norm, eps, batch, rope);
  if (config_.has_indexer()) ops_.append_index_key(kv, a.index_k, index.k_norm, batch, rope);
  if (sparse_) {
    ops_.index_query(a.index_q8, a.head_weight, a.index_q, batch, rope);
    ops_.index_topk(a.picked, a.index_q8, a.head_weight, kv, batch);  // [T, index_topk]
  }

  const float scale = config_.attention_scale();
  ops_.attend_expanded(a.attended, a.q, w.kv_up, a.picked, kv, batch, scale);
  ops_.attend_absorbed(a.attended, a.q, w.kv_up, a.picked, kv, batch, scale);
  ops_.linear(a.update, a.attended, w.o);  // [T, hidden]
}

void Forward::ffn(const LayerWeights& w, const Activations& a) {
  if (!w.is_moe) return ops_.mlp(a.update, a.normed, w.mlp);
  ops_.route(a.expert_ids, a.expert_weight, a.normed, w.moe.gate, w.moe.bias, config_.router());
  ops_.moe(a.update, a.normed, a.expert_ids, a.expert_weight, w.moe.experts,
           w.moe.shared.gate.empty() ? nullptr : &w.moe.shared);
}

// Each rank has some of the experts for the tokens of all groups. The shared expert is its group's.
void Forward::ffn_of_all(const LayerWeights& w, const Activations& a, Tensor sum) {
  const AllTokens& x = all_tokens_;
  if (sum.rows() > 0) {
    ops_.route(a.expert_ids, a.expert_weight, a.normed, w.moe.gate, w.moe.bias, config_.router());
    ops_.mlp(sum, a.normed, w.moe.shared);
  }
  const ExpertSpread spread{options_.group_ranks, config_.experts,
                            options_.numerics == Numerics::fp8 && config_.fp8};
  const int64_t tokens =
      all_->gather_expert_rows(x.rows, {a.normed, a.expert_ids, a.expert_weight}, spread).back();
  if (tokens == 0) return;
  // In pieces that the ops have room for.
  for (int64_t at = 0; at < tokens; at += options_.step_tokens) {
    const int64_t end = std::min<int64_t>(tokens, at + options_.step_tokens);
    ops_.moe(x.update.slice(at, end), x.rows.hidden.slice(at, end), x.rows.ids.slice(at, end),
             x.rows.weights.slice(at, end), w.moe.experts, nullptr);
  }
  all_->sum_expert_rows(sum, x.update.slice(0, tokens), a.expert_ids, spread);
}

// A step of a group that has no tokens, from layer `first` on.
void Forward::serve_others(int first) {
  if (!all_) return;
  const Activations none = activations(0);
  for (int l = first; l < config_.layers; ++l) {
    if (!weights_.layers[l].is_moe) continue;
    ops_.enter_layer(l);
    ffn_of_all(weights_.layers[l], none, all_tokens_.sum.slice(0, 0));
  }
}

// `wanted` has room for the rows of `hidden` that are asked for, and keeps them.
void Forward::head(Tensor wanted, Tensor hidden, std::span<const int32_t> rows, Tensor logits) {
  if (rows.empty()) return;
  FATHOM_CHECK(logits.rows() >= static_cast<int64_t>(rows.size()), "{} logit rows for {} asked",
               logits.rows(), rows.size());
  wanted = wanted.slice(0, static_cast<int64_t>(rows.size()));
  ops_.gather_rows(wanted, hidden, rows);
  ops_.logits(logits.slice(0, static_cast<int64_t>(rows.size())), wanted, weights_.head);
}

Tensor Forward::rows_of(const Buffer& states, int64_t rows) const {
  return Tensor(states.data(), activation_dtype(options_.numerics), {rows, config_.hidden});
}

void Forward::mtp(const StepBatch& batch, std::span<const int32_t> next_ids,
                  std::span<const KvView> kv, Tensor logits, std::span<const int32_t> from) {
  const auto tokens = static_cast<size_t>(batch.tokens());
  FATHOM_CHECK(from.empty() || from.size() == tokens, "{} states for {} tokens", from.size(),
               tokens);
  if (tokens == 0) return;
  const Activations a = activations(batch.tokens());  // a.normed still holds the states
  const StepInputs in = begin_mtp(batch, next_ids, kv);
  if (from.empty()) return mtp_block(a, in, a.normed, kv, logits);
  const int32_t last = *std::max_element(from.begin(), from.end());
  FATHOM_CHECK(last < options_.step_tokens, "state {} of a step of {} tokens", last,
               options_.step_tokens);
  ops_.upload(from_.data(), from.data(), from.size_bytes());
  ops_.gather_rows(a.update, rows_of(states_, last + 1),
                   {reinterpret_cast<const int32_t*>(from_.data()), tokens});
  mtp_block(a, in, a.update, kv, logits);
}

void Forward::mtp_again(const StepBatch& batch, std::span<const int32_t> next_ids,
                        std::span<const KvView> kv, Tensor logits) {
  if (batch.tokens() == 0) return;
  const Activations a = activations(batch.tokens());
  const StepInputs in = begin_mtp(batch, next_ids, kv);
  mtp_block(a, in, rows_of(said_, batch.tokens()), kv, logits);
}

StepInputs Forward::begin_mtp(const StepBatch& batch, std::span<const int32_t> next_ids,
                              std::span<const KvView> kv) {
  FATHOM_CHECK(weights_.mtp && options_.mtp && static_cast<int>(kv.size()) == config_.layers + 1,
               "MTP asked of a model without it, or without a cache layer for it");
  FATHOM_CHECK(static_cast<int>(next_ids.size()) == batch.tokens(), "{} next ids for {} tokens",
               next_ids.size(), batch.tokens());
  StepInputs next = batch.inputs();
  next.ids = next_ids.data();
  return ops_.begin_step(next);
}

// `states` [T, hidden]; they may lie in a.normed or a.update.
void Forward::mtp_block(const Activations& a, const StepInputs& in, Tensor states,
                        std::span<const KvView> kv, Tensor logits) {
  const MtpWeights& w = *weights_.mtp;
  const float eps = config_.norm_eps;
  ops_.embed(a.residual, in.ids, weights_.embed);
  ops_.rms_norm(a.combined.columns(0, config_.hidden), a.residual, w.embed_norm, eps);
  ops_.rms_norm(a.combined.columns(config_.hidden, 2LL * config_.hidden), states, w.hidden_norm,
                eps);
  ops_.linear(a.residual, a.combined, w.combine);
  ops_.rms_norm(a.normed, a.residual, w.block.attention_norm, eps);
  block(config_.layers, w.block, w.head_norm, a, in.batch, kv.back(), rope(1));
  head(rows_of(said_, options_.step_tokens), a.normed, in.logit_rows, logits);
}

}  // namespace fathom
