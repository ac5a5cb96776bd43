#include "model/config.h"

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "io/json_file.h"
#include "io/mapped_file.h"
#include "model/config_reader.h"

namespace fathom {
namespace {

using nlohmann::json;

// Far above any model, far below where products of two overflow an int.
constexpr int64_t kMaxWidth = 1 << 20, kMaxHeads = 4096, kMaxHeadDim = 8192, kMaxRank = 65536;
constexpr int64_t kMaxVocab = 1 << 24, kMaxLayers = 1024, kMaxExperts = 4096, kMaxShared = 64;
constexpr int64_t kMaxPositions = 1 << 30;
constexpr size_t kMaxBytes = 16 << 20;  // of a config file

int as_int(int64_t v) { return static_cast<int>(v); }

// The two vocabularies of the same sizes.
struct Names {
  const char *hidden, *layers, *dense_layers, *intermediate, *moe_intermediate, *heads;
  const char *per_token, *groups, *kept_groups, *routed_scale, *scoring;
};
constexpr Names kHuggingFace = {"hidden_size",
                                "num_hidden_layers",
                                "first_k_dense_replace",
                                "intermediate_size",
                                "moe_intermediate_size",
                                "num_attention_heads",
                                "num_experts_per_tok",
                                "n_group",
                                "topk_group",
                                "routed_scaling_factor",
                                "scoring_func"};
constexpr Names kRelease = {"dim",
                            "n_layers",
                            "n_dense_layers",
                            "inter_dim",
                            "moe_inter_dim",
                            "n_heads",
                            "n_activated_experts",
                            "n_expert_groups",
                            "n_limited_groups",
                            "route_scale",
                            "score_func"};

void read_sizes(ConfigReader& r, const Names& n, Config& c) {
  c.vocab = as_int(r.integer("vocab_size", 1, kMaxVocab));
  c.hidden = as_int(r.integer(n.hidden, 1, kMaxWidth));
  c.layers = as_int(r.integer(n.layers, 1, kMaxLayers));
  c.dense_layers = as_int(r.integer(n.dense_layers, 0, kMaxLayers));
  if (r.sound({n.layers, n.dense_layers}) && c.dense_layers > c.layers)
    r.wrong(n.dense_layers, fmt::format("at most {} ({})", n.layers, c.layers));
  c.intermediate = as_int(r.integer(n.intermediate, 1, kMaxWidth));
  c.heads = as_int(r.integer(n.heads, 1, kMaxHeads));
  // A q_lora_rank of null or 0 means an uncompressed query (DeepSeek-V2-Lite): another model.
  c.q_rank = as_int(r.integer("q_lora_rank", 1, kMaxRank));
  c.latent = as_int(r.integer("kv_lora_rank", 1, kMaxRank));
  c.nope = as_int(r.integer("qk_nope_head_dim", 1, kMaxHeadDim));
  c.rope = as_int(r.integer("qk_rope_head_dim", 2, kMaxHeadDim));
  if (c.rope % 2) r.wrong("qk_rope_head_dim", "an even number");
  c.value = as_int(r.integer("v_head_dim", 1, kMaxHeadDim));
  c.norm_eps = static_cast<float>(r.number("rms_norm_eps", 1e-12, 0.1, 1e-6));
  c.mtp_layers = as_int(r.integer("num_nextn_predict_layers", 0, 1, 0));
}

// `release`: its ModelArgs have defaults where the Hugging Face keys are always written, and the
// chosen weights are normalised exactly when scores are sigmoids.
void read_experts(ConfigReader& r, const Names& n, bool release, Config& c) {
  c.experts =
      as_int(r.integer("n_routed_experts", c.dense_layers >= c.layers ? 0 : 1, kMaxExperts));
  if (c.experts == 0) return;
  std::optional<int64_t> one;
  if (release) one = 1;
  c.moe_intermediate = as_int(r.integer(n.moe_intermediate, 1, kMaxWidth));
  c.shared_experts = as_int(r.integer("n_shared_experts", 0, kMaxShared, 0));
  c.experts_per_token = as_int(r.integer(n.per_token, 1, kMaxExperts));
  c.groups = as_int(r.integer(n.groups, 1, kMaxGroups, one));
  c.kept_groups = as_int(r.integer(n.kept_groups, 1, kMaxGroups, one));
  c.routed_scale = static_cast<float>(
      r.number(n.routed_scale, 1e-6, 1e6, release ? std::optional<double>(1.0) : std::nullopt));
  c.sigmoid_router =
      r.choice(n.scoring, {"sigmoid", "softmax"}, release ? "softmax" : "sigmoid") == "sigmoid";
  c.norm_topk_prob = r.boolean("norm_topk_prob", release ? c.sigmoid_router : true);
  if (!r.sound({"n_routed_experts", n.groups, n.kept_groups})) return;
  if (c.experts % c.groups)
    return r.wrong(n.groups, fmt::format("a divisor of n_routed_experts ({})", c.experts));
  if (c.kept_groups > c.groups)
    return r.wrong(n.kept_groups, fmt::format("at most {} ({})", n.groups, c.groups));
  int64_t choosable = int64_t{c.kept_groups} * (c.experts / c.groups);
  if (c.experts_per_token > choosable)
    r.wrong(n.per_token,
            fmt::format("at most the {} experts of the {} groups kept", choosable, c.kept_groups));
}

void read_indexer(ConfigReader& r, Config& c) {
  bool any = r.has("index_topk") || r.has("index_n_heads") || r.has("index_head_dim");
  if (!any && c.model_type != "deepseek_v32") return;
  c.index_heads = as_int(r.integer("index_n_heads", 1, kMaxHeads));
  c.index_dim = as_int(r.integer("index_head_dim", 2, kMaxHeadDim));
  c.index_topk = as_int(r.integer("index_topk", 1, kMaxPositions));
  if (!r.sound({"index_head_dim"})) return;
  if (c.index_dim & (c.index_dim - 1))
    r.wrong("index_head_dim", "a power of two (Hadamard rotation)");
  else if (r.sound({"qk_rope_head_dim"}) && c.rope > c.index_dim)
    r.wrong("index_head_dim", fmt::format("at least qk_rope_head_dim ({})", c.rope));
}

// rope_scaling with `type` or `rope_type`, or the newer rope_parameters that also hold rope_theta.
void read_rope(ConfigReader& r, Config& c) {
  std::string key = r.has("rope_scaling") ? "rope_scaling" : "rope_parameters";
  std::optional<ConfigReader> scaling = r.child(key);
  ConfigReader& theta = scaling && scaling->has("rope_theta") ? *scaling : r;
  c.rope_theta = theta.number("rope_theta", 1.001, 1e12, 10000);
  if (!scaling) return;
  ConfigReader& s = *scaling;
  // rope_parameters without a type is plain rope; rope_scaling without one cannot be understood.
  const char* type_key = s.has("type") && !s.has("rope_type") ? "type" : "rope_type";
  std::string type = s.choice(type_key, {"yarn", "default"},
                              key == "rope_parameters" && !s.has("factor") ? "default" : "");
  if (type != "yarn") return;
  YarnParams y;
  y.factor = s.number("factor", 1, 1e6);
  y.original_context =
      static_cast<double>(s.integer("original_max_position_embeddings", 1, kMaxPositions));
  y.beta_fast = s.number("beta_fast", 1e-3, 1e6, 32);
  y.beta_slow = s.number("beta_slow", 1e-3, 1e6, 1);
  if (s.sound({"beta_fast", "beta_slow"}) && y.beta_slow >= y.beta_fast)
    s.wrong("beta_slow", fmt::format("below beta_fast ({})", y.beta_fast));
  if (y.factor <= 1) return;
  // cos and sin carry mscale / mscale_all_dim in other engines; here they are never scaled, which
  // is right exactly when the two are equal.
  y.mscale_all_dim = s.number("mscale_all_dim", 0, 100);
  if (s.has("mscale") && s.number("mscale", 0, 100) != y.mscale_all_dim)
    s.wrong("mscale", fmt::format("the same as mscale_all_dim ({})", y.mscale_all_dim));
  s.number("attention_factor", 1, 1, 1);
  s.only("truncate", true, "YaRN's correction range is rounded to whole dims");
  c.yarn = y;
}

void read_quantisation(ConfigReader& r, Config& c) {
  std::optional<ConfigReader> quantisation = r.child("quantization_config");
  if (!quantisation) return;
  ConfigReader& q = *quantisation;
  c.fp8 = true;
  q.choice("quant_method", {"fp8"});
  q.choice("fmt", {"e4m3"}, "e4m3");
  q.choice("activation_scheme", {"dynamic"}, "dynamic");
  c.ue8m0 = q.choice("scale_fmt", {"ue8m0", "float32"}, "float32") == "ue8m0";
  const json* block = q.get("weight_block_size");
  if (!block || *block != json{128, 128}) q.wrong("weight_block_size", "[128, 128]");
}

void read_token(ConfigReader& r, const char* key, int& id, const Config& c) {
  const json* value = r.get(key);
  if (!value || !r.sound({"vocab_size"})) return;
  // Several end tokens may be listed: the first is the model's own.
  const json& first = value->is_array() && !value->empty() ? value->front() : *value;
  if (!first.is_number_unsigned() || first.get<uint64_t>() >= static_cast<uint64_t>(c.vocab))
    return r.wrong(key, fmt::format("a token id below vocab_size ({})", c.vocab));
  id = first.get<int>();
}

Config read_hugging_face(ConfigReader& r) {
  Config c;
  c.model_type = r.choice("model_type", {"deepseek_v32", "deepseek_v3"});
  read_sizes(r, kHuggingFace, c);
  read_experts(r, kHuggingFace, false, c);
  read_indexer(r, c);
  c.max_positions = r.integer("max_position_embeddings", 1, kMaxPositions);
  read_rope(r, c);
  read_quantisation(r, c);
  read_token(r, "bos_token_id", c.bos, c);
  read_token(r, "eos_token_id", c.eos, c);
  r.choice("hidden_act", {"silu"}, "silu");
  r.choice("topk_method", {"noaux_tc"}, "noaux_tc");
  r.integer("moe_layer_freq", 1, 1, 1);
  r.only("tie_word_embeddings", false, "lm_head is a tensor of its own");
  r.only("attention_bias", false, "projections have no bias");
  r.only("rope_interleave", true, "the attention's rope pairs neighbours");
  r.only("indexer_rope_interleave", false, "the indexer's rope pairs halves");
  return c;
}

// config_671B_v3.2.json of DeepSeek's inference code; its ModelArgs supply what is not written.
Config read_release(ConfigReader& r) {
  Config c;
  c.model_type = r.has("index_topk") ? "deepseek_v32" : "deepseek_v3";
  read_sizes(r, kRelease, c);
  read_experts(r, kRelease, true, c);
  read_indexer(r, c);
  c.rope_theta = r.number("rope_theta", 1.001, 1e12, 10000);
  YarnParams y;
  y.factor = r.number("rope_factor", 1, 1e6, 40);
  y.original_context = static_cast<double>(r.integer("original_seq_len", 1, kMaxPositions, 4096));
  y.beta_fast = r.number("beta_fast", 1e-3, 1e6, 32);
  y.beta_slow = r.number("beta_slow", 1e-3, 1e6, 1);
  if (r.sound({"beta_fast", "beta_slow"}) && y.beta_slow >= y.beta_fast)
    r.wrong("beta_slow", fmt::format("below beta_fast ({})", y.beta_fast));
  y.mscale_all_dim = r.number("mscale", 0, 100, 1);
  // YaRN by config alone: the release asks max_seq_len too, which is the size of its cache.
  if (y.factor > 1) c.yarn = y;
  double reach = std::min(y.original_context * y.factor, static_cast<double>(kMaxPositions));
  c.max_positions = r.integer("max_seq_len", 1, kMaxPositions, static_cast<int64_t>(reach));
  c.fp8 = r.choice("dtype", {"fp8", "bf16"}, "bf16") == "fp8";
  c.ue8m0 = r.choice("scale_fmt", {"ue8m0", "float32"}, "float32") == "ue8m0";
  return c;
}

}  // namespace

Config parse_config(const std::string& text, const std::string& origin) {
  json object = parse_json(text, origin, kMaxBytes);
  if (!object.is_object()) fail("{}: expected a JSON object", origin);
  std::vector<std::string> problems;
  ConfigReader r(object, "", problems);
  bool release = r.has("dim") && !r.has("hidden_size");
  Config c = release ? read_release(r) : read_hugging_face(r);
  if (problems.size() == 1) fail("{}: {}", origin, problems[0]);
  if (!problems.empty())
    fail("{}: {} values cannot be used:\n  {}", origin, problems.size(),
         fmt::join(problems, "\n  "));
  return c;
}

Config load_config(const std::string& dir, const std::string& file) {
  std::string path = file;
  if (path.empty()) {
    std::error_code ignored;
    if (!std::filesystem::is_directory(dir, ignored)) fail("no such folder: {}", dir);
    path = std::filesystem::path(dir) / "config.json";
    if (!std::filesystem::exists(path, ignored)) fail("no config.json in {}", dir);
  }
  MappedFile map(path);
  return parse_config({reinterpret_cast<const char*>(map.data()), map.size()}, path);
}

}  // namespace fathom
