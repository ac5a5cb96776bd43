#include "convert/shard_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "base/error.h"
#include "convert/convert.h"
#include "convert/presets.h"
#include "convert/random_checkpoint.h"
#include "model/config.h"
#include "support/checkpoint_maker.h"
#include "support/raw_safetensors.h"
#include "support/shards.h"

namespace fathom {
namespace {

using test::CheckpointMaker;
using test::read_shard;
using test::Shard;
using test::TempFolder;
using ::testing::AllOf;
using ::testing::HasSubstr;

ConvertResult convert_quietly(const std::string& from, const std::string& to, int experts,
                              int ranks, bool drop_mtp = false) {
  ConvertOptions o;
  o.source = from;
  o.save = to;
  o.experts = experts;
  o.ranks = ranks;
  o.drop_mtp = drop_mtp;
  return convert(o, [](const std::string&) {});
}

std::string rank_path(const std::string& dir, int rank, int ranks) {
  return fmt::format("{}/model{}-mp{}.safetensors", dir, rank, ranks);
}

// The converter against slices that the test's own code cuts.
void expect_split(const CheckpointMaker& maker, int ranks) {
  SCOPED_TRACE(fmt::format("{} ranks", ranks));
  TempFolder source, ours, expected;
  maker.write(source);
  maker.write_converted(expected, ranks);
  convert_quietly(source.path(), ours.path(), maker.config["n_routed_experts"], ranks);
  for (int r = 0; r < ranks; ++r) {
    Shard got = read_shard(rank_path(ours.path(), r, ranks));
    Shard want = read_shard(rank_path(expected.path(), r, ranks));
    EXPECT_EQ(got.size(), want.size());
    for (const auto& [name, tensor] : want) {
      ASSERT_TRUE(got.count(name)) << name;
      EXPECT_EQ(got[name].shape, tensor.shape) << name;
      EXPECT_TRUE(got[name] == tensor) << name << " of rank " << r << " has other bytes";
    }
  }
}

TEST(ShardPlan, SplitsTinyAsTheRuleSays) {
  CheckpointMaker maker = CheckpointMaker::tiny();
  for (int ranks : {1, 2, 4}) expect_split(maker, ranks);
}

TEST(ShardPlan, SplitsThreeWaysAcrossBlocks) {
  nlohmann::json config = nlohmann::json::parse(preset_config("tiny"));
  config["vocab_size"] = 300;
  config["num_attention_heads"] = 3;
  config["num_key_value_heads"] = 3;
  config["intermediate_size"] = 432;      // 144 rows a rank: every shard begins inside a block
  config["moe_intermediate_size"] = 192;  // 64 rows of the shared expert a rank
  TempFolder dir;
  RandomOptions random;
  random.config = config.dump();
  random.origin = "test";
  random.out = dir.path();
  random.seed = 3;
  make_random_checkpoint(random, [](const std::string&) {});
  expect_split(CheckpointMaker(dir.path()), 3);
}

TEST(ShardPlan, SharedBlocksAreInBothShards) {
  EXPECT_EQ(covering_blocks({0, 192}).end, 2);
  EXPECT_EQ(covering_blocks({192, 384}).begin, 1);
  EXPECT_EQ(covering_blocks({192, 384}).end, 3);
  EXPECT_EQ(covering_blocks({128, 256}).size(), 1);

  // Tiny's dense MLP has 384 rows, 192 a rank: block 1 belongs to both.
  TempFolder dir;
  std::string tiny = std::string(FATHOM_SOURCE_DIR) + "/tests/data/tiny";
  convert_quietly(tiny, dir.path(), 12, 2);
  auto full = CheckpointMaker::tiny().tensors.at("model.layers.0.mlp.gate_proj.weight_scale_inv");
  ASSERT_EQ(full.shape, (std::vector<int64_t>{3, 2}));
  for (int r = 0; r < 2; ++r) {
    auto part = read_shard(rank_path(dir.path(), r, 2)).at("layers.0.ffn.w1.scale");
    EXPECT_EQ(part.shape, (std::vector<int64_t>{2, 2}));
    EXPECT_EQ(part.bytes, full.bytes.substr(r * 8, 16));
  }
}

TEST(ShardPlan, NamesAreDeepSeeks) {
  TempFolder dir;
  std::string tiny = std::string(FATHOM_SOURCE_DIR) + "/tests/data/tiny";
  convert_quietly(tiny, dir.path(), 12, 2);
  Shard first = read_shard(rank_path(dir.path(), 0, 2)),
        second = read_shard(rank_path(dir.path(), 1, 2));
  for (const char* name :
       {"embed.weight", "norm.weight", "head.weight", "layers.0.attn.wq_a.weight",
        "layers.0.attn.wkv_b.scale", "layers.0.attn.indexer.wq_b.weight",
        "layers.0.attn.indexer.k_norm.bias", "layers.0.ffn.w2.scale", "layers.1.attn_norm.weight",
        "layers.1.ffn.gate.bias", "layers.1.ffn.shared_experts.w3.weight", "layers.2.enorm.weight",
        "layers.2.eh_proj.scale", "layers.2.shared_head.norm.weight"}) {
    EXPECT_TRUE(first.count(name)) << name;
    EXPECT_TRUE(second.count(name)) << name;
  }
  for (int e = 0; e < 12; ++e) {
    std::string name = fmt::format("layers.1.ffn.experts.{}.w1.weight", e);
    EXPECT_EQ(first.count(name), e < 6) << name;
    EXPECT_EQ(second.count(name), e >= 6) << name;
  }
  // The copies of embedding and head in the MTP layer are shared with the main model.
  EXPECT_FALSE(first.count("layers.2.embed.weight"));
  EXPECT_FALSE(first.count("layers.2.shared_head.head.weight"));
}

TEST(ShardPlan, DropsTheMtpLayerAndSaysSoInTheConfig) {
  TempFolder dir;
  std::string tiny = std::string(FATHOM_SOURCE_DIR) + "/tests/data/tiny";
  convert_quietly(tiny, dir.path(), 12, 1, true);
  for (const auto& [name, tensor] : read_shard(rank_path(dir.path(), 0, 1)))
    EXPECT_FALSE(name.starts_with("layers.2.")) << name;
  EXPECT_EQ(load_config(dir.path()).mtp_layers, 0);
  EXPECT_EQ(load_config(tiny).mtp_layers, 1);
}

// What `convert` says about a source; the target must stay untouched.
std::string refusal(const std::string& source, int experts, int ranks) {
  TempFolder parent;
  std::string target = parent.file("target");
  try {
    convert_quietly(source, target, experts, ranks);
  } catch (const Error& e) {
    EXPECT_FALSE(std::filesystem::exists(target)) << "nothing may be written before the checks";
    return e.what();
  }
  return "accepted";
}

TEST(ShardPlan, ListsEveryProblemAtOnce) {
  CheckpointMaker maker = CheckpointMaker::tiny();
  maker.tensors.erase("model.norm.weight");
  maker.tensors.erase("model.layers.1.self_attn.q_a_proj.weight_scale_inv");
  maker.tensors.erase("model.layers.0.mlp.up_proj.weight");
  maker.tensors["lm_head.weight"].shape = {250, 512};
  maker.tensors["model.layers.1.mlp.experts.3.up_proj.weight_scale_inv"].shape = {2, 1};
  TempFolder dir;
  maker.write(dir);
  EXPECT_THAT(
      refusal(dir.path(), 12, 2),
      AllOf(HasSubstr("5 problems"), HasSubstr("missing: model.norm.weight"),
            HasSubstr("missing: model.layers.1.self_attn.q_a_proj.weight_scale_inv"),
            HasSubstr("model.layers.0.mlp.up_proj.weight_scale_inv has no weight"),
            HasSubstr("lm_head.weight: shape is [250, 512], expected [500, 256]"),
            HasSubstr("experts.3.up_proj.weight_scale_inv: shape is [2, 1], expected [1, 2]")));
}

TEST(ShardPlan, RefusesWhatDoesNotDivide) {
  std::string tiny = std::string(FATHOM_SOURCE_DIR) + "/tests/data/tiny";
  EXPECT_THAT(refusal(tiny, 12, 3),
              AllOf(HasSubstr("num_attention_heads = 4 is not divisible by model parallel 3"),
                    HasSubstr("vocab_size = 500")));
  EXPECT_THAT(refusal(tiny, 12, 8), HasSubstr("n_routed_experts = 12"));
  EXPECT_THAT(refusal(tiny, 16, 2),
              AllOf(HasSubstr("--n-experts is 16"), HasSubstr("n_routed_experts 12")));
  EXPECT_THAT(refusal(tiny, 12, 0), HasSubstr("at least 1"));
}

TEST(ShardPlan, RefusesFoldersThatAreNoSource) {
  TempFolder empty, converted, other;
  EXPECT_THAT(refusal("/no/such/place", 12, 1), HasSubstr("no such folder: /no/such/place"));
  EXPECT_THAT(refusal(empty.path(), 12, 1), HasSubstr("not a checkpoint"));
  CheckpointMaker maker = CheckpointMaker::tiny();
  maker.write_converted(converted, 2);
  EXPECT_THAT(refusal(converted.path(), 12, 2), HasSubstr("is a converted folder already"));

  std::string tiny = std::string(FATHOM_SOURCE_DIR) + "/tests/data/tiny";
  EXPECT_THROW(convert_quietly(tiny, tiny, 12, 1), Error);
  maker.write(other);  // a checkpoint that must not be mixed with ours
  try {
    convert_quietly(tiny, other.path(), 12, 1);
    FAIL() << "overwrote a checkpoint";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("holds another checkpoint"));
  }
  EXPECT_EQ(test::file_names(other.path()),
            (std::set<std::string>{"config.json", "model.safetensors"}));
}

TEST(ShardPlan, RefusesDamagedSources) {
  CheckpointMaker maker = CheckpointMaker::tiny();
  TempFolder dir;
  maker.write(dir);
  std::string path = dir.file("model.safetensors"), whole = test::read_file(path);
  for (size_t bytes : {whole.size() - 1, whole.size() / 2, size_t{100}, size_t{0}}) {
    test::write_file(path, whole.substr(0, bytes));
    EXPECT_THAT(refusal(dir.path(), 12, 2), HasSubstr("model.safetensors")) << bytes;
  }
  test::write_file(path, whole);
  std::string index = dir.file("model.safetensors.index.json");
  test::write_file(index, R"({"weight_map": {"lm_head.weight": "gone.safetensors"}})");
  EXPECT_THAT(refusal(dir.path(), 12, 2), HasSubstr("gone.safetensors"));
  test::write_file(index, R"({"weight_map": {"no.such.weight": "model.safetensors"}})");
  EXPECT_THAT(refusal(dir.path(), 12, 2), HasSubstr("no.such.weight"));
  test::write_file(index, R"({"weight_map": {"lm_head.weight": "../model.safetensors"}})");
  EXPECT_THAT(refusal(dir.path(), 12, 2), HasSubstr("is not a file of this folder"));
  test::write_file(index, "[1, 2");
  EXPECT_THAT(refusal(dir.path(), 12, 2), HasSubstr("model.safetensors.index.json"));
}

TEST(ShardPlan, LeavesUnknownTensorsOutAndNamesThem) {
  CheckpointMaker maker = CheckpointMaker::tiny();
  maker.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = {
      DType::f32, {2}, std::string(8, '\0')};
  TempFolder source, target;
  maker.write(source);
  ConvertOptions o;
  o.source = source.path();
  o.save = target.path();
  o.experts = 12;
  std::string said;
  convert(o, [&](const std::string& line) { said += line + "\n"; });
  EXPECT_THAT(said, HasSubstr("left out: model.layers.0.self_attn.rotary_emb.inv_freq"));
  EXPECT_THAT(said, HasSubstr("left out: 2 tensors of the MTP layer (copies"));
}

TEST(ShardPlan, TensorsOfForeignDTypesAreLeftOutUnlessTheyAreNeeded) {
  CheckpointMaker maker = CheckpointMaker::tiny();
  TempFolder source, target;
  maker.write(source);
  test::write_file(source.file("more.safetensors"),
                   test::raw_safetensors(
                       {{"a.mask", "BOOL", {3}, "\1\1\1"}, {"a.scale", "F8_E9M9", {2}, "12345"}}));
  // Neither is part of the checkpoint.
  test::write_file(source.file("._model.safetensors"), "a Macintosh's");
  test::write_file(target.file("._model0-mp1.safetensors"), "a Macintosh's");
  ConvertOptions o;
  o.source = source.path();
  o.save = target.path();
  o.experts = 12;
  std::string said;
  convert(o, [&](const std::string& line) { said += line + "\n"; });
  EXPECT_THAT(said, AllOf(HasSubstr("left out: a.mask (no part"), HasSubstr("left out: a.scale")));
  EXPECT_GT(read_shard(rank_path(target.path(), 0, 1)).size(), 10u);
  test::write_file(source.file("more.safetensors"),
                   test::raw_safetensors({{"model.norm.weight", "F64", {1}, "12345678"}}));
  maker.tensors.erase("model.norm.weight");
  maker.write(source);
  EXPECT_THAT(refusal(source.path(), 12, 1),
              HasSubstr("model.norm.weight: dtype is F64, expected a float"));
}

TEST(ShardPlan, SourcesThatAreSomethingElse) {
  CheckpointMaker maker = CheckpointMaker::tiny();
  TempFolder dir;
  maker.write(dir);
  test::write_file(dir.file("model-2.safetensors"),
                   "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
  EXPECT_THAT(refusal(dir.path(), 12, 1), HasSubstr("a Git LFS pointer"));
  std::filesystem::remove(dir.file("model-2.safetensors"));
  std::filesystem::rename(dir.file("model.safetensors"), dir.file("model.safetensors.part"));
  EXPECT_THAT(refusal(dir.path(), 12, 1),
              HasSubstr("downloads that did not finish: model.safetensors.part"));
}

}  // namespace
}  // namespace fathom
