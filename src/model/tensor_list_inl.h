// Implementation of for_each_tensor (model/tensor_list.h).
#pragma once

#include <fmt/format.h>

#include <optional>

namespace fathom::detail {

template <class F>
class TensorWalk {
 public:
  TensorWalk(const Config& c, F& f) : c_(c), f_(f) {}

  void all(Weights& w) {
    matrix("model.embed_tokens.weight", c_.vocab, c_.hidden, Kind::plain, Split::rows, w.embed);
    w.layers.resize(c_.layers);
    for (int l = 0; l < c_.layers; ++l) layer(l, c_.is_moe(l), w.layers[l]);
    layer_ = -1;
    vector("model.norm.weight", c_.hidden, Kind::norm, w.norm);
    module_ = Module::head;
    matrix("lm_head.weight", c_.vocab, c_.hidden, Kind::plain, Split::rows, w.head);
    module_ = Module::other;
    if (c_.mtp_layers > 0) mtp(w.mtp.emplace());
  }

 private:
  void mtp(MtpWeights& m) {
    layer(c_.layers, c_.experts > 0, m.block);
    std::string p = fmt::format("model.layers.{}.", c_.layers);
    vector(p + "enorm.weight", c_.hidden, Kind::norm, m.embed_norm);
    vector(p + "hnorm.weight", c_.hidden, Kind::norm, m.hidden_norm);
    matrix(p + "eh_proj.weight", c_.hidden, 2LL * c_.hidden, Kind::matrix, Split::none, m.combine);
    vector(p + "shared_head.norm.weight", c_.hidden, Kind::norm, m.head_norm);
  }

  void layer(int l, bool moe, LayerWeights& w) {
    layer_ = l;
    std::string p = fmt::format("model.layers.{}.", l);
    vector(p + "input_layernorm.weight", c_.hidden, Kind::norm, w.attention_norm);
    attention(p + "self_attn.", w.attention);
    vector(p + "post_attention_layernorm.weight", c_.hidden, Kind::norm, w.ffn_norm);
    w.is_moe = moe;
    if (!moe) return mlp(p + "mlp.", c_.intermediate, w.mlp, Module::mlp, Split::rows, Split::cols);
    matrix(p + "mlp.gate.weight", c_.experts, c_.hidden, Kind::plain, Split::none, w.moe.gate);
    optional_ = true;
    vector(p + "mlp.gate.e_score_correction_bias", c_.experts, Kind::f32_vector, w.moe.bias);
    optional_ = false;
    w.moe.experts.resize(c_.experts);
    for (expert_ = 0; expert_ < c_.experts; ++expert_)
      mlp(fmt::format("{}mlp.experts.{}.", p, expert_), c_.moe_intermediate, w.moe.experts[expert_],
          Module::expert, Split::expert, Split::expert);
    expert_ = -1;
    if (c_.shared_experts > 0)
      mlp(p + "mlp.shared_experts.", 1LL * c_.moe_intermediate * c_.shared_experts, w.moe.shared,
          Module::mlp, Split::rows, Split::cols);
  }

  void attention(const std::string& p, AttentionWeights& w) {
    module_ = Module::attention;
    matrix(p + "q_a_proj.weight", c_.q_rank, c_.hidden, Kind::matrix, Split::none, w.q_a);
    vector(p + "q_a_layernorm.weight", c_.q_rank, Kind::norm, w.q_norm);
    matrix(p + "q_b_proj.weight", 1LL * c_.heads * c_.qk_dim(), c_.q_rank, Kind::matrix,
           Split::rows, w.q_b);
    matrix(p + "kv_a_proj_with_mqa.weight", c_.latent + c_.rope, c_.hidden, Kind::matrix,
           Split::none, w.kv_a);
    vector(p + "kv_a_layernorm.weight", c_.latent, Kind::norm, w.kv_norm);
    matrix(p + "kv_b_proj.weight", 1LL * c_.heads * (c_.nope + c_.value), c_.latent, Kind::matrix,
           Split::rows, w.kv_up.kv_b);
    w.kv_up.heads = c_.heads;
    w.kv_up.nope = c_.nope;
    w.kv_up.value = c_.value;
    w.kv_up.latent = c_.latent;
    matrix(p + "o_proj.weight", c_.hidden, 1LL * c_.heads * c_.value, Kind::matrix, Split::cols,
           w.o);
    module_ = Module::other;
    if (!c_.has_indexer()) return;
    std::string i = p + "indexer.";
    matrix(i + "wq_b.weight", 1LL * c_.index_heads * c_.index_dim, c_.q_rank, Kind::matrix,
           Split::none, w.indexer.q_b);
    matrix(i + "wk.weight", c_.index_dim, c_.hidden, Kind::matrix, Split::none, w.indexer.k);
    vector(i + "k_norm.weight", c_.index_dim, Kind::f32_vector, w.indexer.k_norm.weight);
    vector(i + "k_norm.bias", c_.index_dim, Kind::f32_vector, w.indexer.k_norm.bias);
    matrix(i + "weights_proj.weight", c_.index_heads, c_.hidden, Kind::plain, Split::none,
           w.indexer.head_weight);
  }

  void mlp(const std::string& p, int64_t inter, MlpWeights& w, Module module, Split in, Split out) {
    module_ = module;
    cut_ = Split::rows;
    matrix(p + "gate_proj.weight", inter, c_.hidden, Kind::matrix, in, w.gate);
    matrix(p + "up_proj.weight", inter, c_.hidden, Kind::matrix, in, w.up);
    cut_ = Split::cols;
    matrix(p + "down_proj.weight", c_.hidden, inter, Kind::matrix, out, w.down);
    cut_.reset();
    module_ = Module::other;
  }

  void matrix(const std::string& name, int64_t rows, int64_t cols, Kind kind, Split split,
              QWeight& slot) {
    f_(TensorSpec{name,
                  {rows, cols},
                  kind,
                  split,
                  module_,
                  cut_.value_or(split),
                  layer_,
                  expert_,
                  optional_},
       WeightSlot{&slot, nullptr});
  }
  void vector(const std::string& name, int64_t n, Kind kind, const float*& slot) {
    f_(TensorSpec{name, {n}, kind, Split::none, module_, Split::none, layer_, expert_, optional_},
       WeightSlot{nullptr, &slot});
  }

  const Config& c_;
  F& f_;
  int layer_ = -1, expert_ = -1;
  bool optional_ = false;
  Module module_ = Module::other;
  std::optional<Split> cut_;  // if it is not the same as the split over files
};

}  // namespace fathom::detail

namespace fathom {
template <class F>
void for_each_tensor(const Config& c, Weights& w, F&& f) {
  detail::TensorWalk<F>(c, f).all(w);
}
}  // namespace fathom
