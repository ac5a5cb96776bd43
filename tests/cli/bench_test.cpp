// fathom bench as a user runs it: the program itself, its exit codes, what it prints.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/run_fathom.h"

namespace fathom {
namespace {

using nlohmann::json;
using test::kSmall;
using test::kTiny;
using testing::HasSubstr;

struct Outcome {
  int code = -1;
  std::string text;
};

// Runs `fathom bench ARGUMENTS`; standard output, or with `errors` standard error.
Outcome run_bench(const std::string& arguments, bool errors) {
  std::string command = std::string(FATHOM_BINARY) + " bench " + arguments +
                        (errors ? " 2>&1 >/dev/null" : " 2>/dev/null");
  Outcome outcome;
  FILE* pipe = popen(command.c_str(), "r");
  if (!pipe) return outcome;
  std::array<char, 4096> block;
  for (size_t n; (n = std::fread(block.data(), 1, block.size(), pipe)) > 0;)
    outcome.text.append(block.data(), n);
  int status = pclose(pipe);
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return outcome;
}

Outcome bench(const std::string& arguments, bool errors = false) {
  return run_bench("--device cpu " + arguments, errors);
}

const std::string kShort = " --context 8,80 --batch 1,2 --decode-tokens 2 --repeat 1 ";

void expect_figure(const json& f) {
  for (const char* key : {"tokens_per_second", "seconds", "bytes_per_second", "memory_share",
                          "flops_per_second", "product_share", "experts_per_layer"})
    EXPECT_GT(f.at(key).get<double>(), 0) << key;
  double bytes = 0, flops = 0;
  for (const char* key : {"weights", "experts", "cache"})
    bytes += f.at("bytes").at(key).get<double>();
  for (const char* key : {"projections", "experts", "indexer", "attention", "head"})
    flops += f.at("flops").at(key).get<double>();
  EXPECT_DOUBLE_EQ(f.at("bytes").at("total"), bytes);
  EXPECT_DOUBLE_EQ(f.at("flops").at("total"), flops);
  EXPECT_NEAR(f.at("tokens_per_second").get<double>() * f.at("seconds").get<double>(),
              f.at("tokens").get<double>(), 1e-6 * f.at("tokens").get<double>());
}

// Each has the batch to itself; everything but the experts is read by each.
TEST(BenchCommand, CountsTheTokensOfAllGroups) {
  const auto rows_of = [](const std::string& layout) {
    const Outcome outcome = bench("--ckpt-path " + kTiny + kShort + "--json --threads 2 " + layout);
    EXPECT_EQ(outcome.code, 0) << layout;
    return json::parse(outcome.text).at("rows");
  };
  const json one = rows_of(""), two = rows_of("--data-parallel-size 2");
  ASSERT_EQ(one.size(), two.size());
  for (size_t i = 0; i < one.size(); ++i) {
    const json &a = one[i].at("decode"), &b = two[i].at("decode");
    expect_figure(b);
    EXPECT_EQ(b.at("tokens"), 2 * a.at("tokens").get<int>());
    EXPECT_EQ(b.at("bytes").at("weights"), 2 * a.at("bytes").at("weights").get<double>());
    EXPECT_EQ(b.at("bytes").at("cache"), 2 * a.at("bytes").at("cache").get<double>());
    EXPECT_GE(b.at("experts_per_layer"), a.at("experts_per_layer"));
    EXPECT_LT(b.at("experts_per_layer"), 2.5 * a.at("experts_per_layer").get<double>());
  }
}

TEST(BenchCommand, JsonIsOneObjectWithEveryRow) {
  const Outcome outcome = bench("--ckpt-path " + kTiny + kShort + "--json --threads 1");
  ASSERT_EQ(outcome.code, 0);
  const json j = json::parse(outcome.text);
  EXPECT_GT(j.at("machine").at("read_bytes_per_second").get<double>(), 0);
  EXPECT_GT(j.at("machine").at("flops_per_second").get<double>(), 0);
  EXPECT_EQ(j.at("machine").at("threads"), 1);
  EXPECT_EQ(j.at("model").at("type"), "deepseek_v32");
  EXPECT_EQ(j.at("model").at("layers"), 2);
  EXPECT_EQ(j.at("model").at("cache_bytes_per_token"), 2 * (1152 + 256));
  EXPECT_EQ(j.at("compute").at("numerics"), "bf16");
  EXPECT_EQ(j.at("compute").at("attention"), "sparse");
  EXPECT_EQ(j.at("compute").at("kv"), "bf16");
  ASSERT_EQ(j.at("rows").size(), 4U);
  for (const json& row : j.at("rows")) {
    expect_figure(row.at("decode"));
    EXPECT_EQ(row.at("decode").at("tokens"), row.at("batch"));
    EXPECT_EQ(row.contains("prefill"), row.at("batch") == 1);
    EXPECT_FALSE(row.contains("skipped"));
  }
  expect_figure(j.at("rows")[2].at("prefill"));
  EXPECT_EQ(j.at("rows")[2].at("prefill").at("tokens"), 80);
  EXPECT_TRUE(j.at("notes").is_array());
}

TEST(BenchCommand, EveryChoiceRuns) {
  for (const char* choice : {"--numerics exact", "--numerics fp8", "--kv fp8",
                             "--kernels reference", "--attention dense", "--batch-invariant"}) {
    const Outcome outcome =
        bench("--ckpt-path " + kTiny +
              " --context 70 --batch 2 --decode-tokens 1 --repeat 1 --json " + choice);
    ASSERT_EQ(outcome.code, 0) << choice;
    const json j = json::parse(outcome.text);
    expect_figure(j.at("rows")[0].at("decode"));
    const bool dense = std::string(choice) == "--attention dense";
    EXPECT_EQ(j.at("rows")[0].at("decode").at("flops").at("indexer") == 0, dense) << choice;
  }
}

TEST(BenchCommand, TableNamesMachineModelAndNumerics) {
  const Outcome outcome =
      bench("--ckpt-path " + kSmall + " --context 16 --batch 1,2 --decode-tokens 2 --repeat 1");
  ASSERT_EQ(outcome.code, 0);
  for (const char* part : {"machine ", "GB/s, multiplies", "deepseek_v32, 5 layers",
                           "bf16 numerics, sparse attention", "context batch |", "tok/s"})
    EXPECT_THAT(outcome.text, HasSubstr(part));
  // Columns of figures stand below one another: every line from the heading on is equally wide.
  size_t at = outcome.text.find("context batch"), width = 0;
  ASSERT_NE(at, std::string::npos);
  at = outcome.text.rfind('\n', at) + 1;
  for (int line = 0; line < 3; ++line) {
    size_t end = outcome.text.find('\n', at);
    ASSERT_NE(end, std::string::npos);
    if (line == 0) width = end - at;
    EXPECT_EQ(end - at, width) << outcome.text.substr(at, end - at);
    at = end + 1;
  }
}

TEST(BenchCommand, WhatIsWrongIsNamed) {
  const Outcome outcome = bench("--ckpt-path /no/such/folder", true);
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.text, HasSubstr("/no/such/folder"));
}

TEST(BenchCommand, UsageErrorsAreTwo) {
  EXPECT_EQ(bench("").code, 2);
  EXPECT_EQ(bench("--ckpt-path " + kSmall + " --context many").code, 2);
  EXPECT_EQ(bench("--ckpt-path " + kSmall + " --attention half").code, 2);
  EXPECT_EQ(bench("--ckpt-path " + kSmall + " --repeat 0").code, 2);
  EXPECT_EQ(bench("--ckpt-path " + kSmall + " --no-such-option").code, 2);
  EXPECT_EQ(bench("--help").code, 0);
  const std::string small = "--device cpu --ckpt-path " + kSmall, serve = "serve --base-url ";
  for (const auto& [arguments, says] : {
           std::pair(small + " --context 9000",
                     "a context of 9000 and 32 tokens decoded after it pass the model's 8192"),
           std::pair(small + " --context -5", "a context of -5"),
           std::pair(small + " --batch 0", "a batch of 0"),
           std::pair(small + " --batch 1,100000", "a batch of 100000"),
           std::pair("--device cuda --numerics exact --ckpt-path " + kSmall,
                     "--numerics exact is for the CPU only"),
           std::pair(serve + "https://host", "https is not spoken"),
           std::pair(serve + "http://host:99999", "99999 is no port"),
           std::pair(serve + "http://", "no host is named"),
       }) {
    const Outcome outcome = run_bench(arguments, true);
    EXPECT_EQ(outcome.code, 2) << arguments;
    EXPECT_THAT(outcome.text, HasSubstr(says)) << arguments;
  }
}

// Nothing that is given is ignored: a device takes a flag or refuses it, also where the machine has
// no such device.
TEST(BenchCommand, AFlagThatARunHasNoUseForIsRefused) {
  const std::string small = "--ckpt-path " + kSmall + " ";
  for (const auto& [arguments, says] : {
           std::pair("--device cuda " + small + "--repeat 2", "--repeat: on a GPU"),
           std::pair("--device cuda " + small + "--threads 4", "--threads: on a GPU"),
           std::pair("--device cuda " + small + "--seed 7", "--seed: only the weights of --random"),
           std::pair(std::string("--device cuda --random 671b-layers=1 --config x.json"),
                     "--config: --random names its own"),
           std::pair("--device cpu " + small + "--seed 7", "--seed: only the weights of --random"),
           std::pair(std::string("--device cpu --random tiny"), "--random: it fills the memory"),
           std::pair("--device cpu " + small + "--dollars-per-hour 3",
                     "--dollars-per-hour: it is what a GPU costs"),
           std::pair(small + "--random tiny", "either --ckpt-path or --random"),
           std::pair(std::string("--context 9 kernels"),
                     "--context is no flag of `fathom bench kernels`"),
           std::pair(small + "serve", "--ckpt-path is no flag of `fathom bench serve`"),
       }) {
    const Outcome outcome = run_bench(arguments, true);
    EXPECT_EQ(outcome.code, 2) << arguments;
    EXPECT_THAT(outcome.text, HasSubstr(says)) << arguments;
  }
}

// What only a GPU can measure says that there is none, or measures it.
TEST(BenchCommand, AGpuThatIsNotThereIsNamed) {
  for (const std::string& arguments :
       {"--device cuda --context 64 --batch 1 --decode-tokens 2 --ckpt-path " + kSmall,
        std::string("kernels --only nothing-of-this-name")}) {
    const Outcome outcome = run_bench(arguments, true);
    if (outcome.code == 0) continue;  // a machine with a GPU
    EXPECT_EQ(outcome.code, 1) << arguments;
    EXPECT_THAT(outcome.text, HasSubstr("--device cuda: ")) << arguments;
  }
}

}  // namespace
}  // namespace fathom
