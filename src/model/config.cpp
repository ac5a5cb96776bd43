#include "model/config.h"

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "io/json_file.h"
#include "model/config_reader.h"
#include "model/config_rope.h"

namespace fathom {
namespace {

using nlohmann::json;

// Far above any model, far below where products of two overflow an int.
constexpr int64_t kMaxWidth = 1 << 20, kMaxHeads = 4096, kMaxHeadDim = 8192, kMaxRank = 65536;
constexpr int64_t kMaxVocab = 1 << 24, kMaxLayers = 1024, kMaxExperts = 4096, kMaxShared = 64;
constexpr int64_t kMaxPositions = 1 << 30;
constexpr size_t kMaxBytes = 16 << 20;  // of a config file

int as_int(int64_t v) { return static_cast<int>(v); }

// The names of the same sizes in the two kinds of config: Hugging Face's and the release's.
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

// `release`: a config of DeepSeek's release. Its ModelArgs have defaults for keys that a Hugging
// Face config must have, and the weights of the chosen experts are normalised exactly if scores are
// sigmoids.
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
  q.only("dequantize", false, "weights stay as they are stored");
  // These lists are not needed: a tensor that is not quantised says so by its dtype.
  for (const char* key : {"modules_to_not_convert", "ignored_layers", "ignore"}) q.get(key);
  if (q.all_sound()) q.no_others("quantisation", [](const std::string&) { return true; });
}

bool contains_any(const std::string& text, std::initializer_list<const char*> parts) {
  return std::any_of(parts.begin(), parts.end(),
                     [&](const char* part) { return text.find(part) != text.npos; });
}

// Every layer has the same attention; which have experts follows from first_k_dense_replace.
void read_layer_types(ConfigReader& r, const Config& c) {
  if (const json* types = r.get("layer_types"); types && says_something(*types)) {
    const bool same = types->is_array() && types->front().is_string() &&
                      std::all_of(types->begin(), types->end(),
                                  [&](const json& type) { return type == types->front(); });
    if (!same || contains_any(types->front().get<std::string>(),
                              {"sliding", "chunk", "window", "local", "linear", "mamba", "conv"}))
      r.wrong("layer_types", "the same attention over the whole context in every layer");
  }
  const json* mlps = r.get("mlp_layer_types");
  if (!mlps || !says_something(*mlps)) return;
  json expected = json::array();
  for (int layer = 0; layer < c.layers; ++layer)
    expected.push_back(c.is_moe(layer) ? "sparse" : "dense");
  if (*mlps != expected)
    r.wrong("mlp_layer_types", fmt::format("{} times dense, then sparse for each of {} layers",
                                           c.dense_layers, c.layers));
}

// Other keys about attention. Their values must follow from the sizes above; otherwise it is
// another model.
void read_attention(ConfigReader& r, const Config& c) {
  r.only("attention_bias", false, "projections have no bias");
  r.only("rope_interleave", true, "the attention's rope pairs neighbours");
  r.only("indexer_rope_interleave", false, "the indexer's rope pairs halves");
  if (!r.all_sound()) {  // such problems would only follow from the one found
    for (const char* key :
         {"num_key_value_heads", "qk_head_dim", "head_dim", "layer_types", "mlp_layer_types"})
      r.get(key);
    return;
  }
  r.integer("num_key_value_heads", c.heads, c.heads, c.heads);
  r.integer("qk_head_dim", c.qk_dim(), c.qk_dim(), c.qk_dim());
  // Versions of Hugging Face's code have given head_dim different meanings.
  if (const int64_t dim = r.integer("head_dim", 1, kMaxHeadDim, c.rope);
      dim != c.rope && dim != c.qk_dim() && dim != c.value)
    r.wrong("head_dim", fmt::format("{}, {} or {}", c.rope, c.value, c.qk_dim()));
  read_layer_types(r, c);
}

// Whether a key by its name says how rope, quantisation or attention are computed.
bool about_the_computation(const std::string& key) {
  // These are choices of other programs, or matter for training only.
  if (contains_any(key, {"dropout", "attn_impl", "output_attentions", "flash_attn"})) return false;
  if (key == "dtype" || key == "torch_dtype") return false;  // each tensor has its own dtype
  return contains_any(key, {"rope", "rotary", "yarn", "mscale", "quant", "compression_config",
                            "dtype", "attention", "attn", "sliding", "window", "head_dim",
                            "kv_heads", "layer_type", "block_type"}) ||
         key.starts_with("index");
}

void read_token(ConfigReader& r, const char* key, int& id, const Config& c) {
  const json* value = r.get(key);
  if (!value || !r.sound({"vocab_size"})) return;
  // Several end tokens may be listed: the first is the model's own.
  const json& first = value->is_array() && !value->empty() ? value->front() : *value;
  const std::optional<int64_t> number = whole_number(first);
  if (!number || *number < 0 || *number >= c.vocab)
    return r.wrong(key, fmt::format("a token id below vocab_size ({})", c.vocab));
  id = as_int(*number);
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
  read_attention(r, c);
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
  // The release applies YaRN only if max_seq_len, the size of its cache, is large. Here the config
  // alone decides.
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
  r.no_others("rope, quantisation or attention", about_the_computation);
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
    if (!std::filesystem::exists(dir, ignored)) fail("no such folder: {}", dir);
    if (!std::filesystem::is_directory(dir, ignored)) fail("not a folder: {}", dir);
    path = std::filesystem::path(dir) / "config.json";
    if (!std::filesystem::exists(path, ignored)) fail("no config.json in {}", dir);
  }
  return parse_config(read_file(path, kMaxBytes), path);
}

}  // namespace fathom
