// Which rank holds what: parts that cover every tensor, cut where the model allows it.
#include "model/rank_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "support/real_config.h"

namespace fathom {
namespace {

using testing::HasSubstr;

Config config_of(const std::string& dir) {
  return load_config(std::string(FATHOM_SOURCE_DIR) + dir);
}

// Every element of a split tensor belongs to exactly one rank of an attention group, and to every
// group; every element of an expert to exactly one rank of all.
void expect_cover(const Config& c, int tensor, int data) {
  SCOPED_TRACE(fmt::format("{} x {}", tensor, data));
  const RankLayout layout{tensor, data, 0};
  for (const TensorSpec& spec : tensor_list(c)) {
    const int64_t rows = spec.shape[0], cols = spec.shape.size() > 1 ? spec.shape[1] : 1;
    const bool expert = spec.module == Module::expert;
    const int ranks = expert ? layout.ranks() : tensor;
    int64_t held = 0, wholes = 0;
    TensorShare before;
    for (int r = 0; r < ranks; ++r) {
      const TensorShare s = share_of(spec, c, layout.at(r));
      for (int g = 1; g < data && !expert; ++g)
        EXPECT_EQ(share_of(spec, c, layout.at(g * tensor + r)), s) << spec.name;
      if (s.empty()) continue;
      held += s.rows() * s.cols();
      wholes += s.rows() == rows && s.cols() == cols;
      if (s.cols() < cols) {
        EXPECT_EQ(s.col_begin % kFp8Block, 0) << spec.name;
      }
      if (spec.module == Module::mlp && s.rows() < rows) {
        EXPECT_EQ(s.row_begin % kFp8Block, 0) << spec.name;
      }
      if (held > s.rows() * s.cols() && wholes == 0) {
        EXPECT_TRUE(s.row_begin == before.row_end || s.col_begin == before.col_end) << spec.name;
      }
      before = s;
    }
    const bool split = spec.module != Module::other && spec.cut != Split::none;
    const int64_t copies = split ? 1 : ranks;
    EXPECT_EQ(held, copies * rows * cols) << spec.name;
  }
}

TEST(RankLayout, PartsCoverEveryTensor) {
  for (const char* dir : {"/tests/data/tiny", "/models/small"})
    for (auto [tensor, data] : {std::pair(1, 1), std::pair(2, 1), std::pair(4, 1), std::pair(1, 3),
                                std::pair(2, 2), std::pair(1, 16)})
      expect_cover(config_of(dir), tensor, data);
}

// The release on one node: an eighth of each expert a rank for one user, 32 experts for many.
TEST(RankLayout, TheReleasesExperts) {
  const Config c = real_config();
  EXPECT_TRUE(experts_by_columns(c, {8, 1, 0}));
  EXPECT_FALSE(experts_by_columns(c, {1, 8, 0}));
  for (const TensorSpec& spec : tensor_list(c)) {
    if (spec.name == "model.layers.3.mlp.experts.40.down_proj.weight") {
      EXPECT_EQ(share_of(spec, c, {8, 1, 3}), (TensorShare{0, 7168, 768, 1024}));
      EXPECT_EQ(share_of(spec, c, {1, 8, 1}), (TensorShare{0, 7168, 0, 2048}));
      EXPECT_TRUE(share_of(spec, c, {1, 8, 2}).empty());
    }
    if (spec.name == "model.layers.3.self_attn.o_proj.weight") {
      EXPECT_EQ(share_of(spec, c, {8, 1, 7}), (TensorShare{0, 7168, 14336, 16384}));
    }
  }
}

TEST(RankLayout, RefusesWhatDoesNotDivideAndSaysWhatWould) {
  const Config c = config_of("/models/small");
  auto refusal = [&](const Config& of, RankLayout layout) -> std::string {
    try {
      check_layout(of, layout);
    } catch (const Error& e) {
      return e.what();
    }
    return "accepted";
  };
  EXPECT_EQ(refusal(c, {4, 3, 11}), "accepted");
  EXPECT_THAT(refusal(c, {8, 1, 0}), HasSubstr("num_attention_heads = 4"));
  EXPECT_THAT(refusal(c, {8, 1, 0}), HasSubstr("1, 2, 4 would"));
  Config narrow = c;
  narrow.value = 64;
  EXPECT_THAT(refusal(narrow, {4, 1, 0}), HasSubstr("no whole number of FP8 blocks"));
  EXPECT_EQ(refusal(narrow, {2, 1, 0}), "accepted");
  narrow.fp8 = false;
  EXPECT_EQ(refusal(narrow, {4, 1, 0}), "accepted");
  EXPECT_THAT(refusal(c, {1, 0, 0}), HasSubstr("counts from 1"));
}

}  // namespace
}  // namespace fathom
