#include "model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "support/temp_folder.h"

namespace fathom {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

const std::string kSource = FATHOM_SOURCE_DIR;

json tiny() { return json::parse(test::read_file(kSource + "/tests/data/tiny/config.json")); }

json release() {
  return json::parse(R"({"vocab_size": 129280, "dim": 7168, "inter_dim": 18432,
    "moe_inter_dim": 2048, "n_layers": 61, "n_dense_layers": 3, "n_heads": 128,
    "n_routed_experts": 256, "n_shared_experts": 1, "n_activated_experts": 8,
    "n_expert_groups": 8, "n_limited_groups": 4, "route_scale": 2.5, "score_func": "sigmoid",
    "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "v_head_dim": 128, "dtype": "fp8", "scale_fmt": "ue8m0", "index_n_heads": 64,
    "index_head_dim": 128, "index_topk": 2048})");
}

// `patch` is merged into `base` as JSON Merge Patch does; null removes a key.
std::string refusal_of_patch(json base, const std::string& patch) {
  base.merge_patch(json::parse(patch));
  try {
    parse_config(base.dump(), "here");
    return {};
  } catch (const Error& e) {
    EXPECT_EQ(std::string(e.what()).rfind("here", 0), 0u) << "every message names the file";
    return e.what();
  }
}

TEST(Config, HuggingFace) {
  Config c = load_config(kSource + "/tests/data/tiny");
  EXPECT_EQ(c.model_type, "deepseek_v32");
  EXPECT_EQ(c.vocab, 500);
  EXPECT_EQ(c.hidden, 256);
  EXPECT_EQ(c.layers, 2);
  EXPECT_EQ(c.dense_layers, 1);
  EXPECT_EQ(c.experts, 12);
  EXPECT_EQ(c.groups, 3);
  EXPECT_EQ(c.kept_groups, 2);
  EXPECT_EQ(c.experts_per_token, 3);
  EXPECT_FLOAT_EQ(c.routed_scale, 2.5f);
  EXPECT_EQ(c.index_topk, 64);
  EXPECT_EQ(c.max_positions, 163840);
  EXPECT_EQ(c.mtp_layers, 1);
  EXPECT_TRUE(c.fp8 && c.ue8m0 && c.has_indexer() && c.sigmoid_router && c.norm_topk_prob);
  ASSERT_TRUE(c.yarn);
  EXPECT_EQ(c.yarn->factor, 40);
  EXPECT_NEAR(c.attention_scale(), 0.13523, 1e-5);
  EXPECT_EQ(c.bos, 0);
  EXPECT_EQ(c.eos, 1);
}

TEST(Config, ReleaseFormat) {
  Config c = parse_config(release().dump(), "here");
  EXPECT_EQ(c.model_type, "deepseek_v32");
  EXPECT_EQ(c.layers, 61);
  EXPECT_EQ(c.hidden, 7168);
  EXPECT_EQ(c.heads, 128);
  EXPECT_EQ(c.max_positions, 163840);
  EXPECT_EQ(c.rope_theta, 10000);
  EXPECT_NEAR(c.attention_scale(), 0.13523, 1e-5);
  EXPECT_TRUE(c.fp8 && c.ue8m0 && c.norm_topk_prob);
  EXPECT_EQ(c.mtp_layers, 0);
  EXPECT_EQ(c.router().groups, 8);
}

TEST(Config, ReleaseDefaults) {
  json j = release();
  for (const char* key : {"n_expert_groups", "n_limited_groups", "route_scale", "score_func",
                          "dtype", "scale_fmt", "index_n_heads", "index_head_dim", "index_topk"})
    j.erase(key);
  j["rope_factor"] = 1.0;
  j["max_seq_len"] = 777;
  Config c = parse_config(j.dump(), "here");
  EXPECT_EQ(c.model_type, "deepseek_v3");
  EXPECT_FALSE(c.has_indexer());
  EXPECT_EQ(c.groups, 1);
  EXPECT_EQ(c.routed_scale, 1);
  EXPECT_FALSE(c.sigmoid_router);
  EXPECT_FALSE(c.norm_topk_prob) << "the release divides by the sum of sigmoids only";
  EXPECT_FALSE(c.fp8);
  EXPECT_FALSE(c.yarn);
  EXPECT_EQ(c.max_positions, 777);
}

TEST(Config, YarnIsDecidedByTheConfigAlone) {
  json j = release();
  j["max_seq_len"] = 4096;
  EXPECT_TRUE(parse_config(j.dump(), "here").yarn);
}

TEST(Config, ModelWithoutIndexer) {
  json j = tiny();
  j["model_type"] = "deepseek_v3";
  for (const char* key : {"index_topk", "index_n_heads", "index_head_dim"}) j.erase(key);
  EXPECT_FALSE(parse_config(j.dump(), "here").has_indexer());
  EXPECT_THAT(refusal_of_patch(j, R"({"model_type": "deepseek_v32"})"),
              HasSubstr("index_topk is missing"));
  EXPECT_THAT(refusal_of_patch(j, R"({"index_n_heads": 4})"), HasSubstr("index_topk is missing"));
}

TEST(Config, RopeSpellings) {
  json j = tiny();
  json yarn = j["rope_scaling"];
  yarn.erase("type");
  yarn["rope_type"] = "yarn";
  j["rope_scaling"] = yarn;
  EXPECT_TRUE(parse_config(j.dump(), "here").yarn);
  j.erase("rope_scaling");
  j.erase("rope_theta");
  yarn["rope_theta"] = 50000;
  j["rope_parameters"] = yarn;
  Config c = parse_config(j.dump(), "here");
  EXPECT_TRUE(c.yarn);
  EXPECT_EQ(c.rope_theta, 50000);
  j["rope_parameters"] = {{"rope_theta", 123}};
  c = parse_config(j.dump(), "here");
  EXPECT_FALSE(c.yarn);
  EXPECT_EQ(c.rope_theta, 123);
  j["rope_scaling"] = nullptr;
  j["rope_parameters"] = nullptr;
  EXPECT_FALSE(parse_config(j.dump(), "here").yarn);
}

// What transformers 5 writes: one object with rope's base in it, or one for each type of layer.
TEST(Config, RopeNestedByLayerType) {
  json j = tiny();
  json yarn = j["rope_scaling"];
  const Config want = parse_config(j.dump(), "here");
  j.erase("rope_scaling");
  j.erase("rope_theta");
  yarn["rope_type"] = yarn["type"];
  yarn["rope_theta"] = 10000.0;
  yarn["partial_rotary_factor"] = 1.0;
  const json nested[] = {{{"full_attention", yarn}},
                         {{"full_attention", yarn}, {"sliding_attention", nullptr}},
                         {{"full_attention", yarn}, {"sparse_attention", yarn}}};
  for (const json& parameters : nested) {
    for (const char* key : {"rope_parameters", "rope_scaling"}) {
      json config = j;
      config[key] = parameters;
      const Config c = parse_config(config.dump(), "here");
      ASSERT_TRUE(c.yarn) << parameters;
      EXPECT_EQ(c.yarn->factor, want.yarn->factor);
      EXPECT_EQ(c.yarn->original_context, want.yarn->original_context);
      EXPECT_EQ(c.attention_scale(), want.attention_scale());
      EXPECT_EQ(c.rope_theta, 10000);
    }
  }
  // Types with different ropes: the one that the layers have, where the config says which.
  json plain = {{"rope_type", "default"}, {"rope_theta", 10000.0}};
  j["rope_parameters"] = {{"full_attention", yarn}, {"sliding_attention", plain}};
  EXPECT_THAT(refusal_of_patch(j, "{}"),
              HasSubstr("rope_parameters = {...}: expected the same rope for "
                        "every type of layer"));
  j["layer_types"] = {"full_attention", "full_attention"};
  EXPECT_TRUE(parse_config(j.dump(), "here").yarn);
  j["rope_parameters"] = {{"sliding_attention", yarn}};
  EXPECT_THAT(refusal_of_patch(j, "{}"),
              HasSubstr("expected the parameters of a type of layer_types"));
}

TEST(Config, RopeThatIsSaidTwiceIsTheSame) {
  json j = tiny();
  j["rope_parameters"] = j["rope_scaling"];
  j["rope_parameters"]["rope_theta"] = j["rope_theta"];
  EXPECT_TRUE(parse_config(j.dump(), "here").yarn);
  EXPECT_THAT(refusal_of_patch(j, R"({"rope_parameters": {"factor": 20}})"),
              HasSubstr("rope_parameters = {...}: expected the same rope as in rope_scaling"));
  EXPECT_THAT(refusal_of_patch(j, R"({"rope_parameters": {"rope_theta": 20000}})"),
              HasSubstr("rope_parameters.rope_theta = 20000: expected the same as rope_theta "
                        "outside (10000"));
  EXPECT_THAT(refusal_of_patch(tiny(), R"({"rope_scaling": {"rope_type": "default"}})"),
              HasSubstr("rope_scaling.type = \"yarn\": expected the same as rope_type (default)"));
  EXPECT_THAT(refusal_of_patch(tiny(), R"({"rope_parameters": {"rope_theta": 10000}})"),
              HasSubstr("expected the same rope as in rope_scaling"));
  EXPECT_THAT(refusal_of_patch(tiny(), R"({"original_max_position_embeddings": 2048})"),
              HasSubstr("original_max_position_embeddings = 4096: expected the same as outside"));
  json outside = tiny();
  outside["rope_scaling"].erase("original_max_position_embeddings");
  EXPECT_THAT(refusal_of_patch(outside, "{}"),
              HasSubstr("original_max_position_embeddings is missing"));
  outside["original_max_position_embeddings"] = 4096;
  EXPECT_EQ(parse_config(outside.dump(), "here").yarn->original_context, 4096);
}

// Tools that keep all numbers as floats write whole ones with a point.
TEST(Config, WholeFloatsAreIntegers) {
  for (json base : {tiny(), release()}) {
    const Config want = parse_config(base.dump(), "here");
    std::function<void(json&)> to_floats = [&](json& value) {
      if (value.is_number_integer()) value = value.get<double>();
      if (value.is_structured())
        for (json& inner : value) to_floats(inner);
    };
    to_floats(base);
    const Config c = parse_config(base.dump(), "here");
    EXPECT_EQ(c.hidden, want.hidden);
    EXPECT_EQ(c.layers, want.layers);
    EXPECT_EQ(c.index_topk, want.index_topk);
    EXPECT_EQ(c.max_positions, want.max_positions);
    EXPECT_EQ(c.eos, want.eos);
    EXPECT_EQ(c.fp8, want.fp8);
    EXPECT_EQ(c.attention_scale(), want.attention_scale());
  }
  EXPECT_THAT(refusal_of_patch(tiny(), R"({"index_topk": 2048.5})"),
              HasSubstr("index_topk = 2048.5"));
  EXPECT_THAT(refusal_of_patch(tiny(), R"({"index_topk": 1e17})"), HasSubstr("index_topk = 1e+17"));
}

// As transformers 5 saves the architecture, keys that only it needs included.
TEST(Config, KeysOfTransformers5) {
  EXPECT_EQ(refusal_of_patch(tiny(), R"({"dtype": "bfloat16", "torch_dtype": null, "head_dim": 64,
      "qk_head_dim": 192, "rope_interleave": true, "attention_dropout": 0.0, "pretraining_tp": 1,
      "layer_types": ["deepseek_sparse_attention", "deepseek_sparse_attention"],
      "mlp_layer_types": ["dense", "sparse"], "use_cache": true, "initializer_range": 0.02,
      "output_attentions": true, "_attn_implementation": "sdpa", "partial_rotary_factor": 1.0,
      "sliding_window": null, "use_sliding_window": false, "attention_chunk_size": 0,
      "quantization_config": {"modules_to_not_convert": ["lm_head"], "dequantize": false,
        "weight_block_size": [128.0, 128.0], "kv_cache_scheme": null}})"),
            "");
  // DeepSeek's own inference code names how it computes attention.
  EXPECT_EQ(refusal_of_patch(release(), R"({"attn_impl": "absorb", "max_batch_size": 8})"), "");
}

// What is about rope, quantisation or attention and not understood would change every answer.
TEST(Config, NothingAboutTheComputationIsSkipped) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"rope_scaling": {"short_factor": [1, 2]}})", "rope_scaling.short_factor = [1,2]"},
      {R"({"rope_scaling": {"mystery": 3}})", "rope_scaling.mystery = 3: expected no such key"},
      {R"({"rope_scaling": {"type": "default"}})", "rope_scaling.factor = 40"},
      {R"({"rope_scaling": {"mscale": null, "mscale_all_dim": 0.7}})", "mscale_all_dim = 0.7"},
      {R"({"rope_scaling": {"partial_rotary_factor": 0.5}})", "partial_rotary_factor = 0.5"},
      {R"({"partial_rotary_factor": 0.25})", "partial_rotary_factor = 0.25"},
      {R"({"rope_local_base_freq": 10000})", "rope_local_base_freq = 10000: expected no such key"},
      {R"({"rotary_pct": 0.5})", "rotary_pct = 0.5"},
      {R"({"sliding_window": 4096})", "sliding_window = 4096"},
      {R"({"attn_logit_softcapping": 50.0})", "attn_logit_softcapping = 50"},
      {R"({"attention_chunk_size": 8192})", "attention_chunk_size = 8192"},
      {R"({"index_topk_freq": 4})", "index_topk_freq = 4: expected no such key"},
      {R"({"indexer_types": ["full", "shared"]})", "indexer_types = "},
      {R"({"layer_types": ["full_attention", "sliding_attention"]})", "layer_types = "},
      {R"({"layer_types": ["linear_attention", "linear_attention"]})", "layer_types = "},
      {R"({"mlp_layer_types": ["sparse", "sparse"]})", "mlp_layer_types = "},
      {R"({"num_key_value_heads": 1})", "num_key_value_heads = 1: expected 4"},
      {R"({"head_dim": 80})", "head_dim = 80"},
      {R"({"qk_head_dim": 64})", "qk_head_dim = 64: expected 192"},
      {R"({"quantization": {"bits": 4}})", "quantization = {...}: expected no such key"},
      {R"({"compression_config": {"bits": 4}})", "compression_config = {...}"},
      {R"({"kv_cache_dtype": "fp8"})", "kv_cache_dtype = \"fp8\""},
      {R"({"expert_dtype": "fp4"})", "expert_dtype = \"fp4\""},
      {R"({"quantization_config": {"dequantize": true}})", "dequantize = true"},
      {R"({"quantization_config": {"kv_cache_scheme": {"num_bits": 8}}})",
       "kv_cache_scheme = {...}"},
      {R"({"quantization_config": {"bits": 4}})", "quantization_config.bits = 4"},
  };
  for (const auto& [patch, message] : cases) {
    const std::string refused = refusal_of_patch(tiny(), patch);
    EXPECT_THAT(refused, HasSubstr(message)) << patch;
    EXPECT_EQ(refused.find('\n'), std::string::npos) << "one problem, one line: " << refused;
  }
  EXPECT_THAT(refusal_of_patch(release(), R"({"rope_scaling": {"type": "yarn"}})"),
              HasSubstr("rope_scaling = {...}: expected no such key"));
}

TEST(Config, AcceptedVariants) {
  for (const char* patch : {
           R"({"quantization_config": null})",
           R"({"quantization_config": {"scale_fmt": null}})",
           R"({"eos_token_id": [1, 5]})",
           R"({"bos_token_id": null})",
           R"({"n_shared_experts": 0})",
           R"({"n_shared_experts": null})",
           R"({"n_group": 1, "topk_group": 1})",
           R"({"num_nextn_predict_layers": 0})",
           R"({"some_new_key": {"a": [1, 2]}})",
           R"({"first_k_dense_replace": 2, "n_routed_experts": 0})",
           R"({"rope_scaling": {"factor": 1}})",
           R"({"index_head_dim": 64, "qk_rope_head_dim": 64})",
       })
    EXPECT_EQ(refusal_of_patch(tiny(), patch), "") << patch;
}

struct Refused {
  const char* patch;
  const char* message;
};

TEST(Config, ImpossibleValuesAreNamed) {
  const Refused kCases[] = {
      {R"({"num_attention_heads": 0})", "num_attention_heads = 0: expected a whole number from 1"},
      {R"({"num_attention_heads": -4})", "num_attention_heads = -4"},
      {R"({"num_attention_heads": 4.5})", "num_attention_heads = 4.5"},
      {R"({"num_attention_heads": "4"})", "num_attention_heads = \"4\""},
      {R"({"num_attention_heads": true})", "num_attention_heads = true"},
      {R"({"num_attention_heads": [4]})", "num_attention_heads = [4]"},
      {R"({"num_attention_heads": 18446744073709551615})",
       "num_attention_heads = 1844674407370955"},
      {R"({"num_attention_heads": 1e300})", "num_attention_heads = 1e+300"},
      {R"({"hidden_size": 2147483648})", "hidden_size = 2147483648"},
      {R"({"hidden_size": null})", "hidden_size is missing"},
      {R"({"vocab_size": 0})", "vocab_size = 0"},
      {R"({"num_hidden_layers": 0})", "num_hidden_layers = 0"},
      {R"({"num_hidden_layers": 1000000})", "num_hidden_layers = 1000000"},
      {R"({"first_k_dense_replace": 3})",
       "first_k_dense_replace = 3: expected at most num_hidden_layers (2)"},
      {R"({"n_routed_experts": 0})", "n_routed_experts = 0"},
      {R"({"n_routed_experts": 13})", "n_group = 3: expected a divisor of n_routed_experts (13)"},
      {R"({"n_group": 0})", "n_group = 0"},
      {R"({"n_group": 5})", "n_group = 5: expected a divisor"},
      {R"({"topk_group": 4})", "topk_group = 4: expected at most n_group (3)"},
      {R"({"num_experts_per_tok": 0})", "num_experts_per_tok = 0"},
      {R"({"num_experts_per_tok": 9})", "num_experts_per_tok = 9: expected at most the 8 experts"},
      {R"({"scoring_func": "relu"})", "scoring_func = \"relu\": expected sigmoid or softmax"},
      {R"({"topk_method": "greedy"})", "topk_method = \"greedy\": expected noaux_tc"},
      {R"({"moe_layer_freq": 2})", "moe_layer_freq = 2: expected 1"},
      {R"({"routed_scaling_factor": 0})", "routed_scaling_factor = 0"},
      {R"({"routed_scaling_factor": -1})", "routed_scaling_factor = -1"},
      {R"({"q_lora_rank": null})", "q_lora_rank is missing"},
      {R"({"qk_rope_head_dim": 63})", "qk_rope_head_dim = 63: expected an even number"},
      {R"({"qk_nope_head_dim": 0})", "qk_nope_head_dim = 0"},
      {R"({"v_head_dim": 0})", "v_head_dim = 0"},
      {R"({"kv_lora_rank": 0})", "kv_lora_rank = 0"},
      {R"({"index_topk": 0})", "index_topk = 0"},
      {R"({"index_n_heads": 0})", "index_n_heads = 0"},
      {R"({"index_head_dim": 96})", "index_head_dim = 96: expected a power of two"},
      {R"({"index_head_dim": 32})", "index_head_dim = 32: expected at least qk_rope_head_dim (64)"},
      {R"({"hidden_act": "gelu"})", "hidden_act = \"gelu\": expected silu"},
      {R"({"tie_word_embeddings": true})", "tie_word_embeddings = true"},
      {R"({"attention_bias": true})", "attention_bias = true"},
      {R"({"rope_interleave": false})", "rope_interleave = false"},
      {R"({"indexer_rope_interleave": true})", "indexer_rope_interleave = true"},
      {R"({"rope_scaling": {"type": "linear"}})",
       "rope_scaling.type = \"linear\": expected yarn or default"},
      {R"({"rope_scaling": {"type": null}})", "rope_scaling.rope_type is missing"},
      {R"({"rope_scaling": 4})", "rope_scaling = 4: expected an object"},
      {R"({"rope_scaling": {"factor": 0.5}})", "rope_scaling.factor = 0.5"},
      {R"({"rope_scaling": {"factor": null}})", "rope_scaling.factor is missing"},
      {R"({"rope_scaling": {"original_max_position_embeddings": 0}})",
       "original_max_position_embeddings = 0"},
      {R"({"rope_scaling": {"beta_fast": 1}})", "beta_slow = 1: expected below beta_fast"},
      {R"({"rope_scaling": {"mscale": 0.7}})",
       "rope_scaling.mscale = 0.7: expected the same as mscale_all_dim"},
      {R"({"rope_scaling": {"attention_factor": 1.2}})", "attention_factor = 1.2"},
      {R"({"rope_scaling": {"truncate": false}})", "truncate = false"},
      {R"({"rope_theta": 1})", "rope_theta = 1"},
      {R"({"rope_theta": -10000})", "rope_theta = -10000"},
      {R"({"rms_norm_eps": 0})", "rms_norm_eps = 0"},
      {R"({"max_position_embeddings": 0})", "max_position_embeddings = 0"},
      {R"({"num_nextn_predict_layers": 2})", "num_nextn_predict_layers = 2"},
      {R"({"quantization_config": {"quant_method": "awq"}})",
       "quantization_config.quant_method = \"awq\": expected fp8"},
      {R"({"quantization_config": {"weight_block_size": [64, 64]}})",
       "weight_block_size = [64,64]: expected [128, 128]"},
      {R"({"quantization_config": {"weight_block_size": null}})", "weight_block_size = null"},
      {R"({"quantization_config": {"fmt": "e5m2"}})", "fmt = \"e5m2\""},
      {R"({"quantization_config": {"activation_scheme": "static"}})",
       "activation_scheme = \"static\""},
      {R"({"quantization_config": {"scale_fmt": "int"}})", "scale_fmt = \"int\""},
      {R"({"quantization_config": []})", "quantization_config = []"},
      {R"({"bos_token_id": 500})",
       "bos_token_id = 500: expected a token id below vocab_size (500)"},
      {R"({"eos_token_id": -1})", "eos_token_id = -1"},
      {R"({"model_type": "llama"})",
       "model_type = \"llama\": expected deepseek_v32 or deepseek_v3"},
      {R"({"norm_topk_prob": 1})", "norm_topk_prob = 1: expected true or false"},
  };
  for (const Refused& c : kCases) {
    std::string message = refusal_of_patch(tiny(), c.patch);
    EXPECT_THAT(message, HasSubstr(c.message)) << c.patch;
    EXPECT_EQ(message.find('\n'), std::string::npos) << "one problem, one line: " << message;
  }
}

TEST(Config, ImpossibleReleaseValuesUseItsNames) {
  EXPECT_THAT(refusal_of_patch(release(), R"({"n_heads": 0})"), HasSubstr("n_heads = 0"));
  EXPECT_THAT(refusal_of_patch(release(), R"({"n_expert_groups": 7})"),
              HasSubstr("n_expert_groups = 7: expected a divisor"));
  EXPECT_THAT(refusal_of_patch(release(), R"({"rope_factor": 0})"), HasSubstr("rope_factor = 0"));
  EXPECT_THAT(refusal_of_patch(release(), R"({"dtype": "int4"})"), HasSubstr("dtype = \"int4\""));
  EXPECT_THAT(refusal_of_patch(release(), R"({"q_lora_rank": 0})"), HasSubstr("q_lora_rank = 0"));
}

TEST(Config, EveryProblemAtOnce) {
  std::string message = refusal_of_patch(
      tiny(), R"({"num_attention_heads": 0, "vocab_size": null, "hidden_act": "relu"})");
  EXPECT_THAT(message, HasSubstr("3 values cannot be used"));
  EXPECT_THAT(message, HasSubstr("num_attention_heads = 0"));
  EXPECT_THAT(message, HasSubstr("vocab_size is missing"));
  EXPECT_THAT(message, HasSubstr("hidden_act"));
  EXPECT_THAT(refusal_of_patch(json::object(), "{}"), HasSubstr("hidden_size is missing"));
}

TEST(Config, TextThatIsNoConfig) {
  auto message = [](const std::string& text) {
    try {
      parse_config(text, "here");
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_THAT(message(""), HasSubstr("here: not valid JSON"));
  EXPECT_THAT(message("{"), HasSubstr("here: not valid JSON"));
  EXPECT_THAT(message("{\"a\": NaN}"), HasSubstr("here: not valid JSON"));
  EXPECT_THAT(message("{\"a\": 1e999}"), HasSubstr("here: not valid JSON"));
  EXPECT_THAT(message("[]"), HasSubstr("expected a JSON object"));
  EXPECT_THAT(message(std::string(100000, '[')), HasSubstr("nested deeper"));
  EXPECT_THAT(message(std::string(17 << 20, ' ')), HasSubstr("at most"));
}

// As a shell hands over what another command prints: --config <(...).
TEST(Config, FromAPipe) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const std::string text = release().dump();
  ASSERT_EQ(write(ends[1], text.data(), text.size()), static_cast<ssize_t>(text.size()));
  close(ends[1]);
  EXPECT_EQ(load_config({}, fmt::format("/dev/fd/{}", ends[0])).layers, 61);
  close(ends[0]);
}

TEST(Config, NoFolderNoFile) {
  test::TempFolder dir;
  auto message = [](const std::string& folder, const std::string& file = {}) {
    try {
      load_config(folder, file);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_EQ(message(dir.file("none")), "no such folder: " + dir.file("none"));
  EXPECT_EQ(message(dir.path()), "no config.json in " + dir.path());
  EXPECT_THAT(message(dir.path(), dir.file("x.json")), HasSubstr("cannot open"));
  test::write_file(dir.file("x.json"), release().dump());
  EXPECT_EQ(load_config(dir.path(), dir.file("x.json")).layers, 61);
}

}  // namespace
}  // namespace fathom
