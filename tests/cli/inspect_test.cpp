// The inspect command as a user meets it: the program itself, its output and its exit code.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/run_fathom.h"
#include "support/checkpoint_maker.h"
#include "support/raw_safetensors.h"

namespace fathom {
namespace {

using test::CheckpointMaker;
using test::kTiny;
using test::Ran;
using test::run_fathom;
using test::TempFolder;
using ::testing::HasSubstr;

TEST(Inspect, DescribesACheckpoint) {
  Ran ran = run_fathom("inspect " + kTiny);
  EXPECT_EQ(ran.code, 0) << ran.out;
  for (const char* expected :
       {"deepseek_v32", "2: 1 dense, 1 with experts; and 1 for MTP", "3 of 12 a token", "F8_E4M3",
        "788 bytes a token and layer", "YaRN 40 x 4096", "available"})
    EXPECT_THAT(ran.out, HasSubstr(expected));
}

TEST(Inspect, SmallModelAsJson) {
  Ran ran = run_fathom("inspect " + std::string(FATHOM_SOURCE_DIR) + "/models/small --json");
  ASSERT_EQ(ran.code, 0) << ran.out;
  nlohmann::json j = nlohmann::json::parse(ran.out);
  EXPECT_EQ(j["layers"], 5);
  EXPECT_EQ(j["cache"]["fp8"]["bytes_per_token"], 5 * 788);
  EXPECT_EQ(j["cache"]["bf16"]["max_context"], 8192);
  EXPECT_LT(j["parameters"]["active"], j["parameters"]["total"]);
  EXPECT_EQ(j["problems"].size(), 0u);
}

TEST(Inspect, ConversionsOfAnyRankCount) {
  CheckpointMaker maker(kTiny);
  for (int ranks : {1, 2}) {
    TempFolder dir;
    maker.write_converted(dir, ranks);
    Ran ran = run_fathom("inspect " + dir.path());
    EXPECT_EQ(ran.code, 0) << ran.out;
    EXPECT_THAT(ran.out, HasSubstr("converted for " + std::to_string(ranks) + " rank"));
  }
}

TEST(Inspect, BrokenCheckpoint) {
  CheckpointMaker maker(kTiny);
  maker.tensors.erase("model.norm.weight");
  maker.tensors.at("lm_head.weight").shape = {250, 512};
  maker.tensors["strange"] = {DType::u8, {1}, "x"};
  TempFolder dir;
  maker.write(dir);
  Ran ran = run_fathom("inspect " + dir.path());
  EXPECT_EQ(ran.code, 1);
  for (const char* expected : {"2 problems", "missing: model.norm.weight [256]",
                               "misshapen: lm_head.weight", "extra, not used: strange"})
    EXPECT_THAT(ran.out, HasSubstr(expected));
}

TEST(Inspect, OneFile) {
  Ran ran = run_fathom("inspect " + kTiny + "/model-00001-of-000002.safetensors");
  EXPECT_EQ(ran.code, 0);
  EXPECT_THAT(ran.out, HasSubstr("model.embed_tokens.weight"));
  EXPECT_THAT(ran.out, HasSubstr("[500, 256]"));
  ran = run_fathom("inspect " + kTiny + "/model-00001-of-000002.safetensors --json");
  EXPECT_EQ(nlohmann::json::parse(ran.out)["tensors"][0]["shape"], (nlohmann::json{500, 256}));
}

TEST(Inspect, TensorsOfDTypesThatNothingComputesWith) {
  CheckpointMaker maker(kTiny);
  TempFolder dir;
  maker.write(dir);
  test::write_file(dir.file("more.safetensors"),
                   test::raw_safetensors({{"a.mask", "BOOL", {3}, "\1\1\1"},
                                          {"a.big", "F64", {2}, std::string(16, '\1')}}));
  Ran ran = run_fathom("inspect " + dir.path());
  EXPECT_EQ(ran.code, 0) << ran.out;
  EXPECT_THAT(ran.out, HasSubstr("extra, not used: a.mask BOOL [3]"));
  EXPECT_THAT(ran.out, HasSubstr("F64           1 tensors     16 bytes"));
  const nlohmann::json all =
      nlohmann::json::parse(run_fathom("inspect " + dir.path() + " --json").out);
  EXPECT_EQ(all["dtypes"]["BOOL"]["bytes"], 3);
  EXPECT_EQ(all["warnings"].size(), 2u);
  ran = run_fathom("inspect " + dir.file("more.safetensors"));
  EXPECT_THAT(ran.out, HasSubstr("a.mask  BOOL"));
  const nlohmann::json one =
      nlohmann::json::parse(run_fathom("inspect " + dir.file("more.safetensors --json")).out);
  EXPECT_EQ(one["tensors"][0]["dtype"], "BOOL");
}

TEST(Inspect, WhatIsWrongIsOneLine) {
  TempFolder dir;
  Ran ran = run_fathom("inspect " + dir.file("none"));
  EXPECT_EQ(ran.code, 1);
  EXPECT_EQ(ran.out, "fathom: no such folder: " + dir.file("none") + "\n");
  ran = run_fathom("inspect " + dir.path());
  EXPECT_EQ(ran.out, "fathom: no config.json in " + dir.path() + "\n");
  test::write_file(dir.file("x.safetensors"), "123456789");
  ran = run_fathom("inspect " + dir.file("x.safetensors"));
  EXPECT_EQ(ran.code, 1);
  EXPECT_THAT(ran.out, HasSubstr("x.safetensors: header length is"));
  EXPECT_EQ(run_fathom("inspect ").code, 2);
  EXPECT_EQ(run_fathom("inspect " + kTiny + " --nonsense").code, 2);
}

}  // namespace
}  // namespace fathom
