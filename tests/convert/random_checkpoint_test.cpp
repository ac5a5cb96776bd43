#include "convert/random_checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "convert/presets.h"
#include "convert/random_values.h"
#include "numerics/fp8.h"
#include "support/checkpoint_maker.h"
#include "support/shards.h"

namespace fathom {
namespace {

using test::CheckpointMaker;
using test::TempFolder;
using ::testing::HasSubstr;

void make(const std::string& out, uint64_t seed, int threads = 2,
          const std::string& config = preset_config("tiny"), std::optional<DType> dtype = {}) {
  RandomOptions o;
  o.config = config;
  o.origin = "test";
  o.out = out;
  o.seed = seed;
  o.threads = threads;
  o.dtype = dtype;
  make_random_checkpoint(o, [](const std::string&) {});
}

std::vector<double> values(const CheckpointMaker& m, const std::string& name) {
  const test::LooseTensor& t = m.tensors.at(name);
  StoredTensor stored{name,           t.dtype,
                      t.shape,        reinterpret_cast<const std::byte*>(t.bytes.data()),
                      t.bytes.size(), "test"};
  std::vector<float> codes = to_floats(stored);
  std::vector<double> v(codes.begin(), codes.end());
  auto scale = m.tensors.find(name + "_scale_inv");
  if (t.dtype != DType::fp8_e4m3 || scale == m.tensors.end()) return v;
  for (size_t i = 0; i < v.size(); ++i) {
    auto row = static_cast<int64_t>(i) / t.shape[1], col = static_cast<int64_t>(i) % t.shape[1];
    float s;
    std::memcpy(&s, &scale->second.bytes[4 * (row / 128 * scale->second.shape[1] + col / 128)], 4);
    v[i] *= s;
  }
  return v;
}

struct Moments {
  double mean = 0, std = 0, fourth = 0;  // fourth: of the standardised values; 3 when normal
};
Moments moments(const std::vector<double>& v) {
  Moments m;
  for (double x : v) m.mean += x / v.size();
  for (double x : v) m.std += (x - m.mean) * (x - m.mean) / v.size();
  m.std = std::sqrt(m.std);
  for (double x : v) m.fourth += std::pow((x - m.mean) / m.std, 4) / v.size();
  return m;
}

TEST(RandomCheckpoint, HasTheTensorsOfTheRealLayout) {
  TempFolder dir;
  make(dir.path(), 1);
  CheckpointMaker ours(dir.path()), golden = CheckpointMaker::tiny();
  EXPECT_EQ(ours.config, golden.config);
  EXPECT_EQ(ours.tensors.size(), golden.tensors.size());
  for (const auto& [name, t] : golden.tensors) {
    ASSERT_TRUE(ours.tensors.count(name)) << name;
    EXPECT_EQ(ours.tensors.at(name).shape, t.shape) << name;
    EXPECT_EQ(ours.tensors.at(name).dtype, t.dtype) << name;
  }
  EXPECT_EQ(ours.tensors.at("model.layers.2.embed_tokens.weight").bytes,
            ours.tensors.at("model.embed_tokens.weight").bytes);
  EXPECT_EQ(ours.tensors.at("model.layers.2.shared_head.head.weight").bytes,
            ours.tensors.at("lm_head.weight").bytes);
  EXPECT_NE(ours.tensors.at("model.layers.1.mlp.experts.0.up_proj.weight").bytes,
            ours.tensors.at("model.layers.1.mlp.experts.1.up_proj.weight").bytes);

  nlohmann::json index =
      nlohmann::json::parse(test::read_file(dir.file("model.safetensors.index.json")));
  EXPECT_EQ(index["weight_map"].size(), golden.tensors.size());
}

TEST(RandomCheckpoint, DependsOnTheSeedAlone) {
  TempFolder one, four, other;
  make(one.path(), 7, 1);
  make(four.path(), 7, 4);
  make(other.path(), 8, 1);
  test::expect_same_files(one.path(), four.path());
  EXPECT_NE(test::read_file(one.file("model-00001-of-000003.safetensors")),
            test::read_file(other.file("model-00001-of-000003.safetensors")));
}

TEST(RandomCheckpoint, HasTheRightDistributions) {
  TempFolder dir;
  make(dir.path(), 2);
  CheckpointMaker m(dir.path());
  struct Case {
    const char* name;
    double mean, std;
  };
  for (const Case& c :
       std::vector<Case>{{"model.embed_tokens.weight", 0, 1},
                         {"lm_head.weight", 0, 1 / 16.0},
                         {"model.layers.0.mlp.gate_proj.weight", 0, 1 / 16.0},
                         {"model.layers.0.mlp.down_proj.weight", 0, 0.5 / std::sqrt(384.0)},
                         {"model.layers.1.self_attn.o_proj.weight", 0, 0.5 / std::sqrt(512.0)},
                         {"model.layers.1.self_attn.kv_b_proj.weight", 0, 1 / std::sqrt(512.0)},
                         {"model.layers.2.eh_proj.weight", 0, 1 / std::sqrt(512.0)}}) {
    std::vector<double> v = values(m, c.name);
    Moments got = moments(v);
    // Five standard errors of mean and deviation; e4m3 rounding adds at most 0.1 % to the latter.
    double error = 5 * c.std / std::sqrt(static_cast<double>(v.size()));
    EXPECT_NEAR(got.mean, c.mean, error) << c.name;
    EXPECT_NEAR(got.std, c.std, error + 0.002 * c.std) << c.name;
    EXPECT_NEAR(got.fourth, 3, 0.15) << c.name;
  }
  EXPECT_NEAR(moments(values(m, "model.norm.weight")).mean, 1, 0.03);
  EXPECT_NEAR(moments(values(m, "model.norm.weight")).std, 0.1, 0.02);
  EXPECT_NEAR(moments(values(m, "model.layers.0.self_attn.indexer.k_norm.bias")).mean, 0, 0.05);
}

std::set<float> scales(const CheckpointMaker& m) {
  std::set<float> found;
  for (const auto& [name, t] : m.tensors) {
    if (!name.ends_with("_scale_inv")) continue;
    for (size_t i = 0; i < t.bytes.size(); i += 4) {
      float s;
      std::memcpy(&s, &t.bytes[i], 4);
      found.insert(s);
    }
  }
  return found;
}

TEST(RandomCheckpoint, ScalesFollowTheFormat) {
  TempFolder pow2, real;
  make(pow2.path(), 4);
  for (float s : scales(CheckpointMaker(pow2.path()))) {
    int exponent;
    EXPECT_EQ(std::frexp(s, &exponent), 0.5f) << s;
  }
  nlohmann::json config = nlohmann::json::parse(preset_config("tiny"));
  config["quantization_config"].erase("scale_fmt");
  make(real.path(), 4, 2, config.dump());
  CheckpointMaker m(real.path());
  EXPECT_GT(scales(m).size(), 30u) << "blocks must differ, so that a wrong block is noticed";
  EXPECT_NEAR(moments(values(m, "model.layers.0.mlp.gate_proj.weight")).std, 1 / 16.0, 0.001);
  // No code is NaN.
  for (const auto& [name, t] : m.tensors) {
    if (t.dtype != DType::fp8_e4m3) continue;
    for (char c : t.bytes) ASSERT_NE(c & 0x7F, 0x7F) << name;
  }
}

TEST(RandomCheckpoint, OtherDtypes) {
  for (DType dtype : {DType::bf16, DType::f32}) {
    TempFolder dir;
    make(dir.path(), 4, 2, preset_config("tiny"), dtype);
    CheckpointMaker m(dir.path());
    EXPECT_FALSE(m.config.contains("quantization_config"));
    EXPECT_EQ(m.tensors.at("model.layers.0.mlp.up_proj.weight").dtype, dtype);
    EXPECT_FALSE(m.tensors.count("model.layers.0.mlp.up_proj.weight_scale_inv"));
  }
}

TEST(RandomCheckpoint, RefusesFoldersInUseAndBadConfigs) {
  TempFolder dir;
  make(dir.path(), 1);
  EXPECT_THROW(make(dir.path(), 1), Error);
  TempFolder parent;
  EXPECT_THROW(make(parent.file("a"), 1, 1, "{"), Error);
  EXPECT_THROW(make(parent.file("a"), 1, 1, R"({"dim": 7168})"), Error);
  nlohmann::json config = nlohmann::json::parse(preset_config("tiny"));
  config["num_attention_heads"] = 0;
  EXPECT_THROW(make(parent.file("a"), 1, 1, config.dump()), Error);
  EXPECT_FALSE(std::filesystem::exists(parent.file("a")));
}

TEST(Presets, HaveTheSizesTheyPromise) {
  Config slice = parse_config(preset_config("slice"), "slice");
  EXPECT_EQ(slice.layers, 1);
  EXPECT_EQ(slice.dense_layers, 0);
  EXPECT_EQ(slice.experts, 256);
  EXPECT_EQ(slice.hidden, 7168);
  EXPECT_EQ(slice.vocab, 16160);
  EXPECT_EQ(slice.mtp_layers, 0);
  Config five = parse_config(preset_config("671b-layers=5"), "five");
  EXPECT_EQ(five.layers, 6);
  EXPECT_EQ(five.dense_layers, 1);
  EXPECT_EQ(five.vocab, 129280);
  EXPECT_EQ(five.index_topk, 2048);
  Config whole = parse_config(preset_config("671b"), "whole");
  EXPECT_EQ(whole.layers, 61);
  EXPECT_EQ(whole.dense_layers, 3);
  EXPECT_EQ(whole.experts, 256);
  EXPECT_EQ(whole.mtp_layers, 0);
  for (const char* bad : {"", "Tiny", "671b-layers=", "671b-layers=0", "671b-layers=-1",
                          "671b-layers=59", "671b-layers=2x", "671B"})
    EXPECT_THROW(preset_config(bad), UsageError) << bad;
}

TEST(RandomValues, QuantilesAreNormal) {
  EXPECT_NEAR(normal_quantile(0.975), 1.959963985, 1e-7);
  EXPECT_NEAR(normal_quantile(0.001), -3.090232306, 1e-7);
  EXPECT_EQ(normal_quantile(0.5), 0);
}

TEST(RandomValues, AnyCutGivesTheSameDraws) {
  Draws draws(5, "name");
  std::vector<uint16_t> whole(1000), part(1000);
  draws.fill(3, whole);
  for (size_t at = 0, n = 1; at < part.size(); at += n, n = n % 7 + 1)
    draws.fill(3 + at, std::span(part).subspan(at, std::min(n, part.size() - at)));
  EXPECT_EQ(whole, part);
  std::vector<uint16_t> other(1000);
  Draws(5, "nam").fill(3, other);
  EXPECT_NE(whole, other);
}

}  // namespace
}  // namespace fathom
