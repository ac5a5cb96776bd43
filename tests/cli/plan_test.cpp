// The plan command as a user meets it: the program itself, its output and its exit code.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/run_fathom.h"
#include "support/temp_folder.h"

namespace fathom {
namespace {

using test::kSmall;
using test::Ran;
using test::run_fathom;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

const std::string kRelease =
    "--config " + std::string(FATHOM_SOURCE_DIR) + "/models/config_671B_v3.2.json ";

TEST(Plan, OfTheReleaseAsText) {
  const Ran ran = run_fathom("plan " + kRelease + "--gpu h200");
  ASSERT_EQ(ran.code, 0) << ran.out;
  EXPECT_THAT(ran.out, AllOf(HasSubstr("checkpoint of 674 GB"), HasSubstr("8 x H200 (141 GB)"),
                             HasSubstr("tp 4 x dp 2"), HasSubstr("recommended: dp"),
                             HasSubstr("--model-parallel 8"), HasSubstr("--data-parallel-size 8")));
}

// The names that docs/parallel.md promises.
TEST(Plan, AsJson) {
  const Ran ran =
      run_fathom("plan " + kRelease + "--gpu h200 --gpus 8 --concurrency 1 --context 65536 --json");
  ASSERT_EQ(ran.code, 0) << ran.out;
  const nlohmann::json j = nlohmann::json::parse(ran.out);
  EXPECT_EQ(j["recommended"], "tp");
  EXPECT_EQ(j["machine"]["gpu"], "h200");
  EXPECT_EQ(j["machine"]["nodes"], 1);
  EXPECT_EQ(j["machine"]["ranks_per_node"], 8);
  EXPECT_EQ(j["request"]["context"], 65536);
  const nlohmann::json& tp = j["layouts"][0];
  EXPECT_EQ(tp["tensor_parallel_size"], 8);
  EXPECT_EQ(tp["data_parallel_size"], 1);
  EXPECT_TRUE(tp["fits"]);
  for (const char* key : {"weight_bytes", "workspace_bytes", "cache_bytes", "cache_tokens"})
    EXPECT_GT(tp[key], 0) << key;
  EXPECT_EQ(tp["room"][0]["context"], 8192);
  EXPECT_GT(tp["predicted"]["decode_one"]["tokens_per_second"], 0);
  EXPECT_GT(tp["predicted"]["decode_many"]["dollars_per_million"], 0);
  EXPECT_GT(tp["predicted"]["prompt"]["ms"], 0);
  EXPECT_EQ(j["commands"].size(), 2u);
}

TEST(Plan, ExitCodes) {
  const Ran small = run_fathom("plan " + kRelease + "--gpu h100");
  EXPECT_EQ(small.code, 1);
  EXPECT_THAT(small.out, HasSubstr("would fit: 16 x H100"));
  EXPECT_EQ(run_fathom("plan ").code, 2);
  EXPECT_EQ(run_fathom("plan " + kRelease + "--gpu h300").code, 2);
  EXPECT_EQ(run_fathom("plan " + kRelease + "--gpu h200 --gpus 0").code, 2);
  EXPECT_EQ(run_fathom("plan " + kRelease + "--gpu h200 --concurrency 0").code, 2);
  EXPECT_EQ(run_fathom("plan " + kRelease + "--gpu h200 --device cpu").code, 2);
  EXPECT_EQ(run_fathom("plan " + kRelease + "--gpu h200 --numa-nodes 2").code, 2);
  for (const char* flag : {"--memory-gib", "--read-rate", "--dollars-per-hour"}) {
    const Ran ran = run_fathom("plan " + kRelease + "--gpu h200 " + flag + " nan");
    EXPECT_EQ(ran.code, 2) << flag;
    EXPECT_THAT(ran.out, HasSubstr(std::string(flag) + ": Value nan not in range")) << flag;
  }
  const Ran far = run_fathom("plan " + kRelease + "--gpu h200 --context 200000");
  EXPECT_EQ(far.code, 2);
  EXPECT_THAT(far.out, HasSubstr("the model's own is 163840"));
}

TEST(Plan, ProcessorsAndFolders) {
  const Ran ran = run_fathom("plan --ckpt-path " + kSmall +
                             " --device cpu --numa-nodes 2 --memory-gib 4 --read-rate 20 --json");
  ASSERT_EQ(ran.code, 0) << ran.out;
  const nlohmann::json j = nlohmann::json::parse(ran.out);
  EXPECT_EQ(j["machine"]["device"], "cpu");
  EXPECT_EQ(j["layouts"].size(), 2u);
  EXPECT_TRUE(j["layouts"][0]["predicted"]["prompt"].is_null());
  // A folder that was converted for other ranks.
  test::TempFolder folder;
  test::write_file(folder.file("config.json"), test::read_file(kSmall + "/config.json"));
  test::write_file(folder.file("model0-mp4.safetensors"), "");
  const Ran other = run_fathom("plan --ckpt-path " + folder.path() + " --gpu h200 --gpus 2");
  EXPECT_EQ(other.code, 0) << other.out;
  EXPECT_THAT(other.out, HasSubstr("is converted for 4 ranks: on 2"));
  EXPECT_THAT(other.out, HasSubstr("note: the weights are not compared with the config: "));
}

// Weights of another model than the config's: what the plan recommends would refuse them.
TEST(Plan, WeightsOfAnotherModel) {
  const Ran ran = run_fathom("plan --ckpt-path " + kSmall + " " + kRelease + "--gpu h200");
  EXPECT_EQ(ran.code, 1);
  EXPECT_THAT(ran.out, AllOf(HasSubstr(kSmall + ": its weights do not fit "),
                             HasSubstr("config_671B_v3.2.json: misshapen: "),
                             HasSubstr(" more problems)"), Not(HasSubstr("recommended"))));
  EXPECT_EQ(std::count(ran.out.begin(), ran.out.end(), '\n'), 1);
  const Ran gone = run_fathom("plan --ckpt-path /no/such/folder " + kRelease + "--gpu h200");
  EXPECT_EQ(gone.code, 1);
  EXPECT_THAT(gone.out, HasSubstr("no such folder: /no/such/folder"));
}

TEST(Plan, Check) {
  const Ran ran = run_fathom("plan --check");
  EXPECT_EQ(ran.code, 0);
  EXPECT_THAT(ran.out,
              AllOf(HasSubstr("decode, 64 at 32768"), HasSubstr("2 x H200"), HasSubstr("fitted")));
}

}  // namespace
}  // namespace fathom
