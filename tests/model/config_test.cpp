#include "model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

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
std::string refusal(json base, const std::string& patch) {
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
  EXPECT_THAT(refusal(j, R"({"model_type": "deepseek_v32"})"), HasSubstr("index_topk is missing"));
  EXPECT_THAT(refusal(j, R"({"index_n_heads": 4})"), HasSubstr("index_topk is missing"));
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
    EXPECT_EQ(refusal(tiny(), patch), "") << patch;
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
    std::string message = refusal(tiny(), c.patch);
    EXPECT_THAT(message, HasSubstr(c.message)) << c.patch;
    EXPECT_EQ(message.find('\n'), std::string::npos) << "one problem, one line: " << message;
  }
}

TEST(Config, ImpossibleReleaseValuesUseItsNames) {
  EXPECT_THAT(refusal(release(), R"({"n_heads": 0})"), HasSubstr("n_heads = 0"));
  EXPECT_THAT(refusal(release(), R"({"n_expert_groups": 7})"),
              HasSubstr("n_expert_groups = 7: expected a divisor"));
  EXPECT_THAT(refusal(release(), R"({"rope_factor": 0})"), HasSubstr("rope_factor = 0"));
  EXPECT_THAT(refusal(release(), R"({"dtype": "int4"})"), HasSubstr("dtype = \"int4\""));
  EXPECT_THAT(refusal(release(), R"({"q_lora_rank": 0})"), HasSubstr("q_lora_rank = 0"));
}

TEST(Config, EveryProblemAtOnce) {
  std::string message =
      refusal(tiny(), R"({"num_attention_heads": 0, "vocab_size": null, "hidden_act": "relu"})");
  EXPECT_THAT(message, HasSubstr("3 values cannot be used"));
  EXPECT_THAT(message, HasSubstr("num_attention_heads = 0"));
  EXPECT_THAT(message, HasSubstr("vocab_size is missing"));
  EXPECT_THAT(message, HasSubstr("hidden_act"));
  EXPECT_THAT(refusal(json::object(), "{}"), HasSubstr("hidden_size is missing"));
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
  EXPECT_THAT(message(""), HasSubstr("here: not JSON"));
  EXPECT_THAT(message("{"), HasSubstr("here: not JSON"));
  EXPECT_THAT(message("{\"a\": NaN}"), HasSubstr("here: not JSON"));
  EXPECT_THAT(message("{\"a\": 1e999}"), HasSubstr("here: not JSON"));
  EXPECT_THAT(message("[]"), HasSubstr("expected a JSON object"));
  EXPECT_THAT(message(std::string(100000, '[')), HasSubstr("nested deeper"));
  EXPECT_THAT(message(std::string(17 << 20, ' ')), HasSubstr("at most"));
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
