#include "convert/presets.h"

#include <charconv>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"

namespace fathom {
namespace {

using nlohmann::ordered_json;

// What every size of the architecture has in common.
constexpr const char* kBase = R"({
  "architectures": ["DeepseekV32ForCausalLM"],
  "model_type": "deepseek_v32",
  "routed_scaling_factor": 2.5,
  "n_shared_experts": 1,
  "scoring_func": "sigmoid",
  "topk_method": "noaux_tc",
  "norm_topk_prob": true,
  "moe_layer_freq": 1,
  "kv_lora_rank": 512,
  "qk_nope_head_dim": 128,
  "qk_rope_head_dim": 64,
  "v_head_dim": 128,
  "index_head_dim": 128,
  "max_position_embeddings": 163840,
  "rope_theta": 10000,
  "rms_norm_eps": 1e-06,
  "hidden_act": "silu",
  "attention_bias": false,
  "rope_scaling": {
    "type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
    "beta_fast": 32, "beta_slow": 1, "original_max_position_embeddings": 4096
  },
  "tie_word_embeddings": false,
  "bos_token_id": 0,
  "eos_token_id": 1,
  "torch_dtype": "bfloat16",
  "quantization_config": {
    "quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0",
    "activation_scheme": "dynamic", "weight_block_size": [128, 128]
  }
})";

constexpr const char* kTiny = R"({
  "vocab_size": 500, "hidden_size": 256, "intermediate_size": 384, "moe_intermediate_size": 128,
  "num_hidden_layers": 2, "first_k_dense_replace": 1,
  "num_attention_heads": 4, "num_key_value_heads": 4,
  "n_routed_experts": 12, "num_experts_per_tok": 3, "n_group": 3, "topk_group": 2,
  "q_lora_rank": 128, "index_n_heads": 4, "index_topk": 64, "num_nextn_predict_layers": 1
})";

constexpr const char* kReal = R"({
  "vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432,
  "moe_intermediate_size": 2048, "num_hidden_layers": 61, "first_k_dense_replace": 3,
  "num_attention_heads": 128, "num_key_value_heads": 128,
  "n_routed_experts": 256, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4,
  "q_lora_rank": 1536, "index_n_heads": 64, "index_topk": 2048, "num_nextn_predict_layers": 0
})";

constexpr std::string_view kLayers = "671b-layers=";
constexpr int kMostLayers = 58;  // the MoE layers of the real model

ordered_json with(const char* sizes) {
  ordered_json config = ordered_json::parse(kBase);
  config.update(ordered_json::parse(sizes));
  return config;
}

int layers_of(std::string_view preset) {
  std::string_view text = preset.substr(kLayers.size());
  int n = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (error != std::errc() || end != text.data() + text.size() || n < 1 || n > kMostLayers)
    throw UsageError(
        fmt::format("--preset {}: expected a number of MoE layers from 1 to {} after the sign",
                    preset, kMostLayers));
  return n;
}

}  // namespace

std::string preset_config(const std::string& preset) {
  ordered_json config;
  if (preset == "tiny") {
    config = with(kTiny);
  } else if (preset == "slice") {
    config = with(kReal);
    config["vocab_size"] = 16160;
    config["num_hidden_layers"] = 1;
    config["first_k_dense_replace"] = 0;
  } else if (preset == "671b") {
    config = with(kReal);
  } else if (preset.starts_with(kLayers)) {
    config = with(kReal);
    config["num_hidden_layers"] = 1 + layers_of(preset);
    config["first_k_dense_replace"] = 1;
  } else {
    throw UsageError(
        fmt::format("--preset {}: expected tiny, slice, 671b or 671b-layers=N", preset));
  }
  return config.dump(2) + "\n";
}

}  // namespace fathom
