#include "model/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "model/footprint.h"
#include "model/optional_block.h"
#include "numerics/bf16.h"
#include "support/checkpoint_maker.h"
#include "support/real_config.h"

namespace fathom {
namespace {

using test::CheckpointMaker;
using test::LooseTensor;
using test::TempFolder;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const std::string kTiny = std::string(FATHOM_SOURCE_DIR) + "/tests/data/tiny";
const std::string kQb = "model.layers.0.self_attn.q_b_proj.weight";
const std::string kKvB = "model.layers.0.self_attn.kv_b_proj.weight";

float value_at(const QWeight& w, int64_t r, int64_t c) {
  switch (w.dtype) {
    case DType::fp8_e4m3:
      return fp8_to_float(w.row<uint8_t>(r)[c]) * w.scales_of_row(r)[c / kFp8Block];
    case DType::bf16:
      return to_float(w.row<Bf16>(r)[c]);
    default:
      return w.row<float>(r)[c];
  }
}

bool equal(const QWeight& a, const QWeight& b) {
  if (a.rows != b.rows || a.cols != b.cols || a.dtype != b.dtype || a.empty() != b.empty())
    return false;
  if (a.empty()) return true;
  if (!a.scale != !b.scale || a.pow2_scale != b.pow2_scale) return false;
  const size_t row_bytes = static_cast<size_t>(a.cols) * size_of(a.dtype);
  for (int64_t r = 0; r < a.rows; ++r) {
    auto row = [&](const QWeight& w) {
      return static_cast<const char*>(w.data) +
             r * w.stride() * static_cast<int64_t>(size_of(w.dtype));
    };
    if (std::memcmp(row(a), row(b), row_bytes) != 0) return false;
    if (a.scale && std::memcmp(a.scales_of_row(r), b.scales_of_row(r),
                               static_cast<size_t>((a.cols + 127) / 128) * sizeof(float)) != 0)
      return false;
  }
  return true;
}

std::vector<QWeight> matrices(const LayerWeights& l) {
  const AttentionWeights& a = l.attention;
  std::vector<QWeight> all = {a.q_a,
                              a.q_b,
                              a.kv_a,
                              a.kv_up.kv_b,
                              a.o,
                              a.indexer.q_b,
                              a.indexer.k,
                              a.indexer.head_weight,
                              l.mlp.gate,
                              l.mlp.up,
                              l.mlp.down,
                              l.moe.gate,
                              l.moe.shared.gate,
                              l.moe.shared.up,
                              l.moe.shared.down};
  for (const MlpWeights& e : l.moe.experts) all.insert(all.end(), {e.gate, e.up, e.down});
  return all;
}

void expect_same(const LayerWeights& a, const LayerWeights& b, const Config& c) {
  std::vector<QWeight> ma = matrices(a), mb = matrices(b);
  ASSERT_EQ(ma.size(), mb.size());
  for (size_t i = 0; i < ma.size(); ++i) EXPECT_TRUE(equal(ma[i], mb[i])) << "matrix " << i;
  auto same = [](const float* x, const float* y, int n) {
    return (!x && !y) || (x && y && std::memcmp(x, y, n * sizeof(float)) == 0);
  };
  EXPECT_TRUE(same(a.attention_norm, b.attention_norm, c.hidden));
  EXPECT_TRUE(same(a.ffn_norm, b.ffn_norm, c.hidden));
  EXPECT_TRUE(same(a.attention.q_norm, b.attention.q_norm, c.q_rank));
  EXPECT_TRUE(same(a.attention.kv_norm, b.attention.kv_norm, c.latent));
  EXPECT_TRUE(same(a.attention.indexer.k_norm.bias, b.attention.indexer.k_norm.bias, c.index_dim));
  EXPECT_TRUE(same(a.moe.bias, b.moe.bias, c.experts));
}

// Two loaded checkpoints, byte for byte.
void expect_same(const Checkpoint& a, const Checkpoint& b, int rank = 0) {
  const Weights &x = a.weights(rank), &y = b.weights(rank);
  EXPECT_TRUE(equal(x.embed, y.embed));
  EXPECT_TRUE(equal(x.head, y.head));
  ASSERT_EQ(x.layers.size(), y.layers.size());
  for (size_t l = 0; l < x.layers.size(); ++l) expect_same(x.layers[l], y.layers[l], a.config());
  ASSERT_TRUE(x.mtp && y.mtp);
  EXPECT_TRUE(equal(x.mtp->combine, y.mtp->combine));
  expect_same(x.mtp->block, y.mtp->block, a.config());
}

std::string refusal(const std::string& dir, const CheckpointOptions& options = {}) {
  try {
    Checkpoint::load(dir, options);
    return {};
  } catch (const Error& e) {
    return e.what();
  }
}

std::string refusal(const CheckpointMaker& maker) {
  TempFolder dir;
  maker.write(dir);
  return refusal(dir.path());
}

std::vector<std::string> warnings(const CheckpointMaker& maker) {
  TempFolder dir;
  maker.write(dir);
  return Checkpoint::load(dir.path())->warnings();
}

TEST(Checkpoint, HuggingFaceWithIndex) {
  auto c = Checkpoint::load(kTiny);
  const Weights& w = c->weights();
  EXPECT_THAT(c->warnings(), IsEmpty());
  ASSERT_EQ(w.layers.size(), 2u);
  EXPECT_FALSE(w.layers[0].is_moe);
  EXPECT_TRUE(w.layers[1].is_moe);
  EXPECT_EQ(w.layers[1].moe.experts.size(), 12u);
  EXPECT_EQ(w.embed.dtype, DType::bf16);
  EXPECT_TRUE(w.layers[0].attention.q_a.is_fp8());
  EXPECT_TRUE(w.layers[0].attention.q_a.pow2_scale);
  EXPECT_EQ(w.layers[0].attention.kv_a.rows, 576);
  ASSERT_TRUE(w.mtp);
  EXPECT_NE(w.mtp->head_norm, nullptr);
  EXPECT_NE(w.layers[1].moe.bias, nullptr);
  CheckpointMaker maker(kTiny);
  uint16_t first;
  std::memcpy(&first, maker.tensors.at("model.norm.weight").bytes.data(), 2);
  EXPECT_EQ(w.norm[0], to_float(Bf16{first}));
}

TEST(Checkpoint, OtherDtypes) {
  CheckpointMaker maker = CheckpointMaker::tiny();
  // q_b in float32, kv_b in bf16 (both without scales), a norm in float32.
  auto dequantise = [&](const std::string& name, bool bf16) {
    LooseTensor scale = maker.tensors.at(name + "_scale_inv");
    maker.tensors.erase(name + "_scale_inv");
    LooseTensor& t = maker.tensors.at(name);
    std::string out;
    for (int64_t i = 0; i < t.shape[0] * t.shape[1]; ++i) {
      int64_t r = i / t.shape[1], c = i % t.shape[1];
      float s;
      std::memcpy(&s, &scale.bytes[4 * (r / 128 * scale.shape[1] + c / 128)], 4);
      float v = fp8_to_float(static_cast<uint8_t>(t.bytes[i])) * s;
      Bf16 half = to_bf16(v);
      out.append(bf16 ? reinterpret_cast<char*>(&half) : reinterpret_cast<char*>(&v), bf16 ? 2 : 4);
    }
    t.bytes = out;
    t.dtype = bf16 ? DType::bf16 : DType::f32;
  };
  dequantise(kQb, false);
  dequantise(kKvB, true);
  TempFolder dir;
  maker.write(dir);
  auto plain = Checkpoint::load(dir.path()), fp8 = Checkpoint::load(kTiny);
  const AttentionWeights& a = plain->weights().layers[0].attention;
  const AttentionWeights& b = fp8->weights().layers[0].attention;
  EXPECT_EQ(a.q_b.dtype, DType::f32);
  EXPECT_EQ(a.kv_up.kv_b.dtype, DType::bf16);
  EXPECT_EQ(a.q_b.scale, nullptr);
  for (int64_t r = 0; r < a.q_b.rows; r += 37)
    for (int64_t c = 0; c < a.q_b.cols; ++c)
      ASSERT_EQ(value_at(a.q_b, r, c), value_at(b.q_b, r, c));
  for (int64_t r = 0; r < a.kv_up.kv_b.rows; r += 37)
    for (int64_t c = 0; c < a.kv_up.kv_b.cols; ++c)
      ASSERT_EQ(value_at(a.kv_up.kv_b, r, c), value_at(b.kv_up.kv_b, r, c))
          << "e4m3 times a power of two is exact in bf16";
}

TEST(Checkpoint, ConversionsEqualTheOriginal) {
  CheckpointMaker maker = CheckpointMaker::tiny();
  auto original = Checkpoint::load(kTiny);
  // At 4 ranks dense MLP rows are 96 a shard and kv_b stays in whole blocks: shared and own scales.
  for (int ranks : {1, 2, 4}) {
    SCOPED_TRACE(ranks);
    TempFolder dir;
    maker.write_converted(dir, ranks);
    auto converted = Checkpoint::load(dir.path());
    EXPECT_THAT(converted->warnings(), IsEmpty());
    expect_same(*original, *converted);
  }
}

// Each rank has its part, no matter how many files a conversion cut the tensors into, and what it
// has is what the original has there.
TEST(Checkpoint, RanksReadTheirPartsOfAnyConversion) {
  CheckpointMaker maker = CheckpointMaker::tiny();
  const auto whole = Checkpoint::load(kTiny);
  for (RankLayout layout : {RankLayout{2, 1, 0}, RankLayout{4, 1, 0}, RankLayout{2, 2, 0}}) {
    SCOPED_TRACE(fmt::format("{} x {}", layout.tensor, layout.data));
    CheckpointOptions options;
    options.layout = layout;
    const auto original = Checkpoint::load(kTiny, options);
    for (int rank = 0; rank < layout.ranks(); ++rank) {
      const Weights& w = original->weights(rank);
      EXPECT_EQ(w.layers[0].attention.kv_up.heads, 4 / layout.tensor);
      EXPECT_EQ(w.layers[0].attention.q_b.rows, 4 * 192 / layout.tensor);
      EXPECT_EQ(w.layers[0].attention.o.cols, 4 * 128 / layout.tensor);
      // The dense MLP's three blocks, the last ranks' first; the experts' one block is not cut.
      const PartRange blocks = part_of(3, rank % layout.tensor, layout.tensor);
      EXPECT_EQ(w.layers[0].mlp.down.cols, 128 * blocks.size());
      const PartRange experts = part_of(12, rank, layout.ranks());
      for (int e = 0; e < 12; ++e)
        EXPECT_EQ(w.layers[1].moe.experts[static_cast<size_t>(e)].empty(),
                  e < experts.begin || e >= experts.end);
      // A value of a cut by columns, where it stands in the whole.
      const QWeight &part = w.layers[0].attention.o, &all = whole->weights().layers[0].attention.o;
      for (int64_t c = 0; c < part.cols; c += 31)
        EXPECT_EQ(value_at(part, 200, c), value_at(all, 200, c + rank % layout.tensor * part.cols));
    }
    for (int files : {1, 2, 4}) {
      SCOPED_TRACE(fmt::format("{} files", files));
      TempFolder dir;
      maker.write_converted(dir, files);
      const auto converted = Checkpoint::load(dir.path(), options);
      for (int rank = 0; rank < layout.ranks(); ++rank) expect_same(*original, *converted, rank);
    }
  }
  CheckpointOptions three;
  three.layout.tensor = 3;
  EXPECT_THAT(refusal(kTiny, three), HasSubstr("num_attention_heads = 4 is not divisible"));
}

TEST(Checkpoint, DamageIsNoticedByTheComparison) {
  CheckpointMaker maker = CheckpointMaker::tiny();
  maker.tensors.at(kQb).bytes[1000] ^= 1;
  TempFolder dir;
  maker.write(dir);
  auto a = Checkpoint::load(kTiny), b = Checkpoint::load(dir.path());
  EXPECT_FALSE(equal(a->weights().layers[0].attention.q_b, b->weights().layers[0].attention.q_b));
}

TEST(Checkpoint, ConversionProblems) {
  CheckpointMaker maker = CheckpointMaker::tiny();
  {
    TempFolder dir;
    maker.write_converted(dir, 2);
    std::filesystem::remove(dir.file("model1-mp2.safetensors"));
    EXPECT_THAT(refusal(dir.path()), HasSubstr("are missing: model1-mp2.safetensors"));
  }
  {
    // 500 rows of the embedding do not divide by 3.
    TempFolder dir;
    maker.write_converted(dir, 3);
    EXPECT_THAT(
        refusal(dir.path()),
        HasSubstr("cannot be divided: model.embed_tokens.weight of shape [500, 256] over 3"));
  }
  {
    TempFolder dir;
    maker.write_converted(dir, 4);
    std::string path = dir.file("model2-mp4.safetensors");
    std::map<std::string, LooseTensor> shard;
    SafetensorsFile file = SafetensorsFile::open(path);
    for (const StoredTensor& t : file.tensors())
      shard[t.name] = {t.dtype, t.shape, {reinterpret_cast<const char*>(t.data), t.bytes}};
    shard.at("layers.0.ffn.w1.scale").bytes[0] ^= 1;  // a block that shard 1 holds too
    shard.erase("layers.1.ffn.experts.7.w2.weight");
    shard.erase("layers.0.attn.wo.weight");
    CheckpointMaker::write_tensors(path, shard);
    EXPECT_THAT(
        refusal(dir.path()),
        AllOf(HasSubstr("3 problems"),
              HasSubstr("shards disagree: model.layers.0.mlp.gate_proj.weight_scale_inv"),
              HasSubstr("missing: model.layers.1.mlp.experts.7.down_proj.weight"),
              HasSubstr("missing: model.layers.0.self_attn.o_proj.weight [256, 512] in shard 2")));
  }
}

TEST(Checkpoint, SeveralConversionsInOneFolder) {
  CheckpointMaker maker = CheckpointMaker::tiny();
  TempFolder dir;
  maker.write_converted(dir, 4);
  maker.write_converted(dir, 2);
  std::filesystem::remove(dir.file("model0-mp2.safetensors"));
  auto c = Checkpoint::load(dir.path());
  EXPECT_THAT(c->warnings(), ElementsAre(HasSubstr("the one with mp4 is read")));
}

TEST(Checkpoint, EveryProblemByName) {
  CheckpointMaker maker = CheckpointMaker::tiny();
  auto& t = maker.tensors;
  t.erase("model.norm.weight");
  t.erase(kQb + "_scale_inv");
  t.at("lm_head.weight").shape = {250, 512};
  t.at("model.layers.0.self_attn.q_a_proj.weight").dtype = DType::u8;
  t["model.layers.1.mlp.gate.weight_scale_inv"] = {DType::f32, {1}, std::string(4, '\0')};
  std::string message = refusal(maker);
  for (const char* expected :
       {"5 problems", "missing: model.norm.weight [256]",
        "no scale: model.layers.0.self_attn.q_b_proj.weight is F8_E4M3",
        "misshapen: lm_head.weight is [250, 512], expected [500, 256]",
        "unknown dtype: model.layers.0.self_attn.q_a_proj.weight is U8",
        "scale without an FP8 weight: model.layers.1.mlp.gate.weight is BF16"})
    EXPECT_THAT(message, HasSubstr(expected));
}

TEST(Checkpoint, OneProblemIsOneLine) {
  CheckpointMaker maker = CheckpointMaker::tiny();
  maker.tensors.erase("model.layers.1.mlp.experts.3.up_proj.weight_scale_inv");
  EXPECT_THAT(refusal(maker),
              AllOf(HasSubstr("no scale: model.layers.1.mlp.experts.3.up_proj.weight is F8_E4M3"),
                    ::testing::Not(HasSubstr("\n"))));
}

TEST(Checkpoint, ScaleProblems) {
  std::string name = kQb + "_scale_inv";
  CheckpointMaker maker = CheckpointMaker::tiny();
  maker.tensors.at(name).shape = {3, 2};
  EXPECT_THAT(refusal(maker), HasSubstr("misshapen: " + name + " is [3, 2], expected [6, 1]"));
  maker = CheckpointMaker::tiny();
  float nan = NAN;
  std::memcpy(&maker.tensors.at(name).bytes[8], &nan, 4);
  EXPECT_THAT(refusal(maker), HasSubstr("not a number: " + name + " holds nan at 2"));
  maker = CheckpointMaker::tiny();
  maker.tensors.at(name).dtype = DType::i32;
  EXPECT_THAT(refusal(maker), HasSubstr("unknown dtype: " + name + " is I32"));
  maker = CheckpointMaker::tiny();
  maker.tensors.erase(kQb);
  EXPECT_THAT(refusal(maker), HasSubstr("missing: " + kQb + " [768, 128], though its scale"));
}

TEST(Checkpoint, ScalesThatAreNoPowersOfTwo) {
  CheckpointMaker maker = CheckpointMaker::tiny();
  float odd = 0.3f;
  std::memcpy(&maker.tensors.at(kQb + "_scale_inv").bytes[4], &odd, 4);
  TempFolder dir;
  maker.write(dir);
  auto c = Checkpoint::load(dir.path());
  EXPECT_FALSE(c->weights().layers[0].attention.q_b.pow2_scale);
  EXPECT_TRUE(c->weights().layers[0].attention.q_a.pow2_scale);
}

TEST(Checkpoint, ExtraTensors) {
  CheckpointMaker maker = CheckpointMaker::tiny();
  LooseTensor one{DType::f32, {1}, std::string(4, '\0')};
  for (const char* name :
       {"model.layers.2.embed_tokens.weight", "model.layers.2.shared_head.head.weight",
        "model.layers.0.self_attn.rotary_emb.inv_freq"})
    maker.tensors[name] = one;
  EXPECT_THAT(warnings(maker), IsEmpty());
  maker.tensors["model.layers.0.self_attn.q_proj.weight"] = one;
  EXPECT_THAT(
      warnings(maker),
      ElementsAre(HasSubstr("extra, not used: model.layers.0.self_attn.q_proj.weight [1]")));
}

TEST(Checkpoint, MtpLayer) {
  CheckpointMaker maker = CheckpointMaker::tiny();
  TempFolder whole;
  maker.write(whole);
  CheckpointOptions without;
  without.with_mtp = false;
  auto c = Checkpoint::load(whole.path(), without);
  EXPECT_FALSE(c->weights().mtp);
  EXPECT_EQ(c->config().mtp_layers, 0);
  EXPECT_THAT(c->warnings(), IsEmpty());

  CheckpointMaker undeclared = maker;
  undeclared.config["num_nextn_predict_layers"] = 0;
  EXPECT_THAT(warnings(undeclared),
              ElementsAre(HasSubstr("layer 2 (MTP) is in the files but not")));

  std::erase_if(maker.tensors,
                [](const auto& t) { return t.first.starts_with("model.layers.2."); });
  TempFolder dir;
  maker.write(dir);
  c = Checkpoint::load(dir.path());
  EXPECT_FALSE(c->weights().mtp);
  EXPECT_THAT(c->warnings(), ElementsAre(HasSubstr("layer 2 is left out")));
  maker.tensors["model.layers.2.enorm.weight"] = {DType::f32, {256}, std::string(1024, '\0')};
  EXPECT_THAT(refusal(maker), AllOf(HasSubstr("57 problems"),
                                    HasSubstr("missing: model.layers.2.input_layernorm.weight"),
                                    HasSubstr("inspect lists all")));
}

// Where the block is welcome and not needed, one that is not whole is left out, and why is said.
TEST(Checkpoint, OptionalMtpLayer) {
  CheckpointMaker maker = CheckpointMaker::tiny();
  const auto load = [&] {
    TempFolder dir;
    maker.write(dir);
    CheckpointWithOptionalBlock loaded = load_with_optional_block(dir.path(), {});
    EXPECT_EQ(loaded.checkpoint->weights().mtp.has_value(), loaded.left_out.empty());
    EXPECT_EQ(loaded.checkpoint->config().mtp_layers, loaded.left_out.empty() ? 1 : 0);
    return loaded.left_out;
  };
  EXPECT_THAT(load(), IsEmpty());
  const auto norm = maker.tensors.extract("model.layers.2.hnorm.weight");
  EXPECT_THAT(load(), HasSubstr("missing: model.layers.2.hnorm.weight"));
  maker.tensors["model.layers.2.hnorm.weight"] = {DType::f32, {3}, std::string(12, '\0')};
  EXPECT_THAT(load(), HasSubstr("model.layers.2.hnorm.weight"));
  // Not the block's fault.
  maker.tensors.erase("model.norm.weight");
  EXPECT_THROW(load(), Error);
}

TEST(Checkpoint, ModelWithoutIndexer) {
  CheckpointMaker maker = CheckpointMaker::tiny();
  maker.config["model_type"] = "deepseek_v3";
  for (const char* key : {"index_topk", "index_n_heads", "index_head_dim"}) maker.config.erase(key);
  std::erase_if(maker.tensors,
                [](const auto& t) { return t.first.find(".indexer.") != std::string::npos; });
  TempFolder dir;
  maker.write(dir);
  auto c = Checkpoint::load(dir.path());
  EXPECT_FALSE(c->config().has_indexer());
  EXPECT_TRUE(c->weights().layers[0].attention.indexer.q_b.empty());
}

TEST(Checkpoint, RouterBiasMayBeAbsent) {
  CheckpointMaker maker = CheckpointMaker::tiny();
  maker.tensors.erase("model.layers.1.mlp.gate.e_score_correction_bias");
  TempFolder dir;
  maker.write(dir);
  EXPECT_EQ(Checkpoint::load(dir.path())->weights().layers[1].moe.bias, nullptr);
}

TEST(Checkpoint, ConvertedFolderWithTheReleasesConfig) {
  CheckpointMaker maker = CheckpointMaker::tiny();
  TempFolder dir;
  maker.write_converted(dir, 2);
  test::write_file(dir.file("release.json"), R"({"vocab_size": 500, "dim": 256, "inter_dim": 384,
    "moe_inter_dim": 128, "n_layers": 2, "n_dense_layers": 1, "n_heads": 4, "n_routed_experts": 12,
    "n_shared_experts": 1, "n_activated_experts": 3, "n_expert_groups": 3, "n_limited_groups": 2,
    "route_scale": 2.5, "score_func": "sigmoid", "q_lora_rank": 128, "kv_lora_rank": 512,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "dtype": "fp8",
    "scale_fmt": "ue8m0", "index_n_heads": 4, "index_head_dim": 128, "index_topk": 64})");
  CheckpointOptions options;
  options.config_file = dir.file("release.json");
  auto c = Checkpoint::load(dir.path(), options);
  EXPECT_EQ(c->weights().layers.size(), 2u);
  EXPECT_THAT(c->warnings(), ElementsAre(HasSubstr("(MTP)")));
}

TEST(Checkpoint, WhatIsNoCheckpoint) {
  TempFolder dir;
  std::string none = dir.file("none");
  EXPECT_EQ(refusal(none), "no such folder: " + none);
  EXPECT_EQ(refusal(dir.path()), "no config.json in " + dir.path());
  CheckpointMaker maker = CheckpointMaker::tiny();
  maker.write_config(dir);
  EXPECT_EQ(refusal(dir.path()), "not a checkpoint: no *.safetensors in " + dir.path());
  test::write_file(dir.file("model.safetensors"), "short");
  EXPECT_THAT(refusal(dir.path()), HasSubstr("model.safetensors: not a safetensors file: 5 bytes"));
}

TEST(Checkpoint, IndexProblems) {
  CheckpointMaker maker = CheckpointMaker::tiny();
  TempFolder dir;
  maker.write(dir);
  auto with_index = [&](const std::string& text) {
    test::write_file(dir.file("model.safetensors.index.json"), text);
    return refusal(dir.path());
  };
  EXPECT_THAT(with_index("{"), HasSubstr("index.json: not valid JSON"));
  EXPECT_THAT(with_index("{}"), HasSubstr("expected an object with an object weight_map"));
  EXPECT_THAT(with_index(R"({"weight_map": {}})"), HasSubstr("weight_map is empty"));
  EXPECT_THAT(with_index(R"({"weight_map": {"a": 5}})"), HasSubstr("expected a file name for a"));
  EXPECT_THAT(with_index(R"({"weight_map": {"a": "../x"}})"),
              HasSubstr("not a file of this folder"));
  EXPECT_THAT(with_index(R"({"weight_map": {"a": "gone.safetensors"}})"),
              HasSubstr("are missing: gone.safetensors"));
  EXPECT_THAT(with_index(R"({"weight_map": {"a": "model.safetensors"}})"),
              HasSubstr("not in its file: a, which"));
  EXPECT_EQ(with_index(R"({"weight_map": {"model.norm.weight": "model.safetensors"}})"), "");
}

TEST(Checkpoint, TheSameTensorInTwoFiles) {
  CheckpointMaker maker = CheckpointMaker::tiny();
  TempFolder dir;
  maker.write(dir);
  CheckpointMaker::write_tensors(dir.file("more.safetensors"), {{kQb, maker.tensors.at(kQb)}});
  EXPECT_THAT(refusal(dir.path()), HasSubstr("twice: " + kQb));
}

TEST(Checkpoint, EveryTruncatedFileIsRefused) {
  CheckpointMaker maker = CheckpointMaker::tiny();
  TempFolder dir;
  maker.write(dir);
  std::string path = dir.file("model.safetensors");
  for (size_t bytes = std::filesystem::file_size(path); bytes > 0; bytes = bytes * 3 / 4) {
    std::filesystem::resize_file(path, bytes - 1);
    EXPECT_THAT(refusal(dir.path()), HasSubstr("model.safetensors:")) << bytes;
  }
}

TEST(Footprint, RealModel) {
  Config c = real_config();
  c.index_heads = c.index_dim = c.index_topk = 0;  // V3: no indexer
  ParameterCount v3 = count_parameters(c);
  EXPECT_NEAR(static_cast<double>(v3.total), 671.0e9, 0.1e9) << "DeepSeek-V3: 671 B";
  EXPECT_NEAR(static_cast<double>(v3.active), 37.5e9, 0.1e9);
  EXPECT_NEAR(static_cast<double>(v3.mtp), 11.6e9, 0.1e9) << "without its copies of embed and head";
  c.index_heads = 64;
  c.index_dim = 128;
  c.index_topk = 2048;
  EXPECT_EQ(cache_bytes_per_token(c, KvFormat::fp8), 788 * 61);
  EXPECT_EQ(cache_bytes_per_token(c, KvFormat::bf16), (1152 + 256) * 61);
  c.index_topk = 0;
  EXPECT_EQ(cache_bytes_per_token(c, KvFormat::f32), 2304 * 61);
}

}  // namespace
}  // namespace fathom
