// The sizes and architecture choices of a checkpoint. All of it comes from config.json.
#pragma once

#include <optional>
#include <string>

#include "numerics/rope.h"
#include "numerics/routing.h"

namespace fathom {

struct Config {
  std::string model_type;  // deepseek_v32 or deepseek_v3 (no indexer: dense)
  int vocab = 0;           // vocab_size
  int hidden = 0;          // hidden_size
  int layers = 0;          // num_hidden_layers
  int dense_layers = 0;    // first_k_dense_replace: layers below have a dense MLP
  int intermediate = 0;    // intermediate_size
  int moe_intermediate = 0;
  int experts = 0;            // n_routed_experts
  int shared_experts = 0;     // n_shared_experts
  int experts_per_token = 0;  // num_experts_per_tok
  int groups = 1;             // n_group
  int kept_groups = 1;        // topk_group
  float routed_scale = 1;     // routed_scaling_factor
  bool norm_topk_prob = true;
  bool sigmoid_router = true;  // scoring_func

  int heads = 0;                                       // num_attention_heads
  int q_rank = 0;                                      // q_lora_rank
  int latent = 0;                                      // kv_lora_rank
  int nope = 0;                                        // qk_nope_head_dim
  int rope = 0;                                        // qk_rope_head_dim
  int value = 0;                                       // v_head_dim
  int index_heads = 0, index_dim = 0, index_topk = 0;  // 0 0 0: no indexer
  int64_t max_positions = 0;                           // max_position_embeddings
  double rope_theta = 10000;
  std::optional<YarnParams> yarn;
  float norm_eps = 1e-6f;
  int mtp_layers = 0;  // num_nextn_predict_layers
  bool fp8 = false;    // quantization_config present
  bool ue8m0 = false;  // its scale_fmt
  int bos = 0, eos = 1;

  bool has_indexer() const { return index_topk > 0; }
  bool is_moe(int layer) const { return layer >= dense_layers && experts > 0; }
  int qk_dim() const { return nope + rope; }
  float attention_scale() const {
    return static_cast<float>(softmax_scale(qk_dim(), yarn ? &*yarn : nullptr));
  }
  RouterShape router() const {
    return {experts,      groups,         kept_groups,   experts_per_token,
            routed_scale, norm_topk_prob, sigmoid_router};
  }
};

// Reads DIR/config.json, or `file` when given: Hugging Face keys, or those of DeepSeek's own
// inference code (dim, n_layers, ...). Throws Error naming the key, the value and what is accepted,
// every problem at once.
Config load_config(const std::string& dir, const std::string& file = {});
Config parse_config(const std::string& json, const std::string& origin);

}  // namespace fathom
