// Groups of GPUs that compute different sequences: the same answers whatever else is computed, as
// close to exact arithmetic as one GPU's, and a group without work keeps nobody waiting.
#include <gmock/gmock.h>

#include "kernels/gpu.h"
#include "kernels/nccl.h"
#include "runtime/ranked.h"

namespace fathom::ranked {
namespace {

class GroupsGpu : public testing::TestWithParam<Numerics> {
 protected:
  void SetUp() override {
    const GpuInfo gpu = find_gpu(2);
    if (!gpu.usable) GTEST_SKIP() << "no two usable GPUs: " << gpu.why_not;
  }
  static EngineOptions options(Numerics n, int groups, DeviceKind device = DeviceKind::cuda) {
    EngineOptions o = group_options(n, 1, groups);
    o.compute.device = device;
    o.compute.batch_invariant = true;
    o.cache_tokens = 8192;
    return o;
  }
};

// Prompts around a page and top-k, greedily continued, with log-probabilities of every token of the
// prompt where `scored`.
struct Told {
  std::vector<std::vector<int32_t>> ids;
  std::vector<float> prompt;  // of all prompts, one after the other
};
Told told(ModelEngine& engine, size_t requests, bool scored) {
  const int lengths[] = {1, 63, 64, 65, 257, 400, 130};
  std::vector<Answer> all(requests);
  Told out;
  std::vector<std::vector<float>> prompts(requests);
  for (size_t i = 0; i < requests; ++i) {
    Request r = request_for(
        random_ids(lengths[i % std::size(lengths)], static_cast<unsigned>(i), 4000), 12, all[i]);
    r.sampling.temperature = 0;
    if (scored && r.ids.size() > 1) {
      r.logprobs = 0;
      r.prompt_logprobs = true;
    }
    r.sink = [&, i, sink = r.sink](const TokenEvent& e) {
      for (const TokenLogprobs& p : e.prompt_logprobs) prompts[i].push_back(p.logprob);
      sink(e);
    };
    EXPECT_TRUE(engine.submit(std::move(r)).ok());
  }
  while (engine.step()) engine.check_integrity();
  for (size_t i = 0; i < requests; ++i) {
    EXPECT_EQ(all[i].finish, Finish::length) << all[i].error;
    out.ids.push_back(all[i].ids);
    out.prompt.insert(out.prompt.end(), prompts[i].begin(), prompts[i].end());
  }
  return out;
}

TEST_P(GroupsGpu, AnswersDependNeitherOnOthersNorOnChunksNorOnPreemption) {
  EngineOptions o = options(GetParam(), 2);
  const auto want = told(*engine_of(o), 7, false).ids;
  EXPECT_EQ(told(*engine_of(o), 7, false).ids, want) << "a second time";
  o.compute.step_tokens = 70;
  o.compute.sequences = 2;
  EXPECT_EQ(told(*engine_of(o), 7, false).ids, want);
  o.compute.sequences = 5;
  o.compute.context = 448;
  o.cache_tokens = 1024;
  o.keep_prefixes = true;
  EXPECT_EQ(told(*engine_of(o), 7, false).ids, want);
  // The second group has nothing to do, and takes part: in steps that are recorded and in others.
  for (size_t requests : {size_t{1}, size_t{2}}) {
    const auto few = told(*engine_of(o), requests, false).ids;
    EXPECT_EQ(few, std::vector(want.begin(), want.begin() + static_cast<int64_t>(requests)));
  }
}

// As groups of several processes exchange, in recorded steps and in others.
TEST_P(GroupsGpu, SayTheSameByNccl) {
  if (nccl_exchange_bytes() == 0) GTEST_SKIP() << "this build has no NCCL";
  EngineOptions o = options(GetParam(), 2);
  const auto want = told(*engine_of(o), 7, false).ids;
  o.compute.exchange = GpuExchange::nccl;
  EXPECT_EQ(told(*engine_of(o), 7, false).ids, want);
  const auto one = told(*engine_of(o), 1, false).ids;  // the second group has nothing to do
  EXPECT_EQ(one, std::vector(want.begin(), want.begin() + 1));
}

TEST_P(GroupsGpu, AreAsCloseToExactAsOneGpu) {
  const Told exact = told(*engine_of(options(Numerics::exact, 1, DeviceKind::cpu)), 7, true);
  const Told one = told(*engine_of(options(GetParam(), 1)), 7, true);
  const Told two = told(*engine_of(options(GetParam(), 2)), 7, true);
  ASSERT_EQ(one.prompt.size(), exact.prompt.size());
  ASSERT_EQ(two.prompt.size(), exact.prompt.size());
  ASSERT_GT(exact.prompt.size(), 900u);
  double of_one = 0, of_two = 0;
  for (size_t i = 0; i < exact.prompt.size(); ++i) {
    of_one += std::abs(one.prompt[i] - exact.prompt[i]);
    of_two += std::abs(two.prompt[i] - exact.prompt[i]);
  }
  size_t alike = 0;
  for (size_t i = 0; i < one.ids.size(); ++i) alike += one.ids[i] == two.ids[i];
  const auto count = static_cast<double>(exact.prompt.size());
  printf(
      "log-probabilities of %zu tokens: one GPU %.5f from exact, two groups %.5f; %zu of %zu "
      "answers are the same tokens\n",
      exact.prompt.size(), of_one / count, of_two / count, alike, one.ids.size());
  EXPECT_LE(of_two, 1.25 * of_one);
  // Random prompts are near ties at every turn; fp8 takes many of them otherwise than it would with
  // one rounding less.
  if (GetParam() == Numerics::bf16) {
    EXPECT_GE(2 * alike, one.ids.size());
  }
}

INSTANTIATE_TEST_SUITE_P(Numerics, GroupsGpu, testing::Values(Numerics::bf16, Numerics::fp8),
                         [](const auto& p) { return std::string(name_of(p.param)); });

}  // namespace
}  // namespace fathom::ranked
