#include "model/tensor_list.h"

#include <string_view>
#include <utility>

namespace fathom {

std::vector<TensorSpec> tensor_list(const Config& c) {
  std::vector<TensorSpec> list;
  Weights shape_only;
  for_each_tensor(c, shape_only, [&](const TensorSpec& spec, WeightSlot) { list.push_back(spec); });
  return list;
}

std::string converted_name(const std::string& hf_name) {
  // Whole dotted components are replaced, so "wq_b" or "norm" inside other words stay.
  static constexpr std::pair<std::string_view, std::string_view> kComponents[] = {
      {"self_attn", "attn"},
      {"mlp", "ffn"},
      {"embed_tokens", "embed"},
      {"input_layernorm", "attn_norm"},
      {"post_attention_layernorm", "ffn_norm"},
      {"q_a_proj", "wq_a"},
      {"q_a_layernorm", "q_norm"},
      {"q_b_proj", "wq_b"},
      {"kv_a_proj_with_mqa", "wkv_a"},
      {"kv_a_layernorm", "kv_norm"},
      {"kv_b_proj", "wkv_b"},
      {"o_proj", "wo"},
      {"gate_proj", "w1"},
      {"down_proj", "w2"},
      {"up_proj", "w3"},
      {"lm_head", "head"},
      {"weight_scale_inv", "scale"},
      {"e_score_correction_bias", "bias"},
  };
  std::string out;
  size_t at = 0;
  while (at <= hf_name.size()) {
    size_t dot = std::min(hf_name.find('.', at), hf_name.size());
    std::string_view part(hf_name.data() + at, dot - at);
    for (const auto& [from, to] : kComponents)
      if (part == from) {
        part = to;
        break;
      }
    if (!(at == 0 && part == "model")) {
      if (!out.empty()) out += '.';
      out += part;
    }
    at = dot + 1;
  }
  return out;
}

}  // namespace fathom
