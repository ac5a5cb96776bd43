// The golden files on the GPU, under the bounds the CPU is held to; and what a GPU promises beside
// them: the same bits again, and with batch_invariant the same bits however tokens share steps.
#include <gmock/gmock.h>

#include <random>

#include "kernels/gpu.h"
#include "runtime/engine.h"
#include "runtime/golden.h"

namespace fathom::golden {
namespace {

EvalOptions gpu_options(Numerics numerics, int chunk = default_step_tokens(DeviceKind::cuda),
                        int ranks = 1) {
  EvalOptions o = options_of(numerics);
  o.compute.layout.tensor = ranks;
  o.compute.device = DeviceKind::cuda;
  o.compute.step_tokens = chunk;
  o.compute.threads = 1;
  return o;
}

std::string name_for_gtest(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

// Skips where there are too few GPUs to test, saying why.
class WithGpu : public testing::Test {
 protected:
  explicit WithGpu(int ranks = 1) : ranks_(ranks) {}
  void SetUp() override {
    const GpuInfo gpu = find_gpu(ranks_);
    if (!gpu.usable) GTEST_SKIP() << "no usable GPU: " << gpu.why_not;
  }
  int ranks() const { return ranks_; }

 private:
  const int ranks_;
};

// --- end to end

using File = std::tuple<const char*, Numerics>;
class GoldenGpuFile : public WithGpu, public testing::WithParamInterface<File> {
 protected:
  Golden golden() const { return Golden(std::get<0>(GetParam())); }
  Numerics numerics() const { return std::get<1>(GetParam()); }
};

// As the CPU's kernels but the fastest, one row in a near-tie may be spared.
TEST_P(GoldenGpuFile, IsAsCloseAsItsNumericsCanBe) {
  expect_within_floor(golden(), gpu_options(numerics()), 1);
}

TEST_P(GoldenGpuFile, IsAsCloseWithPromptsInChunks) {
  expect_within_floor(golden(), gpu_options(numerics(), 100), 1);
}

TEST_P(GoldenGpuFile, IsAsCloseWhenBatchInvariant) {
  EvalOptions o = gpu_options(numerics());
  o.compute.batch_invariant = true;
  expect_within_floor(golden(), o, 1);
}

TEST_P(GoldenGpuFile, MtpBlockIsAsCloseAsTheCpus) {
  expect_mtp_within_floor(golden(), gpu_options(numerics()));
}

TEST_P(GoldenGpuFile, MtpBlockIsAsCloseWithPromptsInChunks) {
  expect_mtp_within_floor(golden(), gpu_options(numerics(), 100));
}

INSTANTIATE_TEST_SUITE_P(Golden, GoldenGpuFile,
                         testing::Combine(testing::Values("tiny", "small-find-700",
                                                          "small-prose-1000", "small-find-2500"),
                                          testing::Values(Numerics::bf16, Numerics::fp8)),
                         [](const auto& p) {
                           return name_for_gtest(std::get<0>(p.param)) + "_" +
                                  std::string(name_of(std::get<1>(p.param)));
                         });

// Ranks on two GPUs, whose sums round once more than one rank's.
class GoldenGpuRanks : public WithGpu, public testing::WithParamInterface<Numerics> {
 protected:
  GoldenGpuRanks() : WithGpu(2) {}
  EvalOptions options(int chunk = default_step_tokens(DeviceKind::cuda)) const {
    return gpu_options(GetParam(), chunk, ranks());
  }
};

TEST_P(GoldenGpuRanks, AreAsCloseAsOne) {
  for (const char* name : {"tiny", "small-find-700", "small-prose-1000", "small-find-2500"})
    expect_within_floor(Golden(name), options(), 1);
}

// Chunks whose rows of the indexer are shared out, with a block that is not whole at the end.
TEST_P(GoldenGpuRanks, AreAsCloseWithPromptsInChunks) {
  for (const char* name : {"small-find-700", "small-find-2500"})
    expect_within_floor(Golden(name), options(333), 1);
}

TEST_P(GoldenGpuRanks, MtpBlockIsAsCloseAsTheCpus) {
  expect_mtp_within_floor(Golden("small-find-700"), options());
}

INSTANTIATE_TEST_SUITE_P(Numerics, GoldenGpuRanks, testing::Values(Numerics::bf16, Numerics::fp8),
                         [](const auto& p) { return std::string(name_of(p.param)); });

// --- layer by layer

using GoldenGpu = WithGpu;
class GoldenTwoGpus : public WithGpu {
 protected:
  GoldenTwoGpus() : WithGpu(2) {}
};

// Taps read between the ops: on memory that host and GPU share. The floor is what another order of
// float32 sums costs; tensor cores keep 13 bits in the sums of fp8 products, which moves more codes
// (docs/numerics.md).
TEST_F(GoldenGpu, EachFp8LayerOnTheOraclesInputIsWithinItsFloor) {
  EvalOptions o = gpu_options(Numerics::fp8);
  o.compute.observed = true;
  expect_layers_within_floor(o, {.error = 1.7, .picks = 0.997});
}

TEST_F(GoldenTwoGpus, EachFp8LayerOnTheOraclesInputIsWithinItsFloor) {
  EvalOptions o = gpu_options(Numerics::fp8, default_step_tokens(DeviceKind::cuda), ranks());
  o.compute.observed = true;
  expect_layers_within_floor(o, {.error = 1.7, .picks = 0.997});
}

// --- the same bits

using Logits = std::map<int64_t, std::vector<float>>;

// Prefill up to `decode_from` in steps of options.compute.step_tokens, then token by token.
Logits logits_of(const Golden& g, EvalOptions options, size_t decode_from) {
  options.compute.context = static_cast<int64_t>(g.tokens.size());
  const Checkpoint& c = checkpoint(g.tiny);
  Evaluator evaluator(c.config(), weights_for(g.tiny, options), options);
  std::vector<int64_t> rows = g.rows;
  for (size_t p = decode_from; p < g.tokens.size(); ++p) rows.push_back(static_cast<int64_t>(p));
  std::sort(rows.begin(), rows.end());
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  Logits out;
  auto keep = [&](int64_t row, std::span<const float> l) { out[row].assign(l.begin(), l.end()); };
  evaluator.feed(std::span(g.tokens).first(decode_from), rows, keep);
  if (decode_from < g.tokens.size())
    evaluator.feed(std::span(g.tokens).subspan(decode_from), rows, keep, /*decode=*/true);
  return out;
}

// Of the rows both have, those with any bit different.
testing::AssertionResult equal_bits(const Logits& a, const Logits& b) {
  size_t common = 0, different = 0;
  int64_t first = -1;
  for (const auto& [row, x] : a) {
    auto other = b.find(row);
    if (other == b.end()) continue;
    ++common;
    if (x.size() == other->second.size() &&
        std::memcmp(x.data(), other->second.data(), x.size() * sizeof(float)) == 0)
      continue;
    if (first < 0) first = row;
    ++different;
  }
  if (common > 0 && different == 0) return testing::AssertionSuccess();
  return testing::AssertionFailure()
         << different << " of " << common << " rows differ, the first at " << first;
}

class GoldenGpuBits : public WithGpu, public testing::WithParamInterface<Numerics> {
 protected:
  const Golden g{"small-find-700"};
  const size_t all = g.tokens.size();
};

TEST_P(GoldenGpuBits, RunsAgainToTheSameBits) {
  const EvalOptions o = gpu_options(GetParam(), 256);
  EXPECT_TRUE(equal_bits(logits_of(g, o, all - 6), logits_of(g, o, all - 6)));
}

TEST_P(GoldenGpuBits, ObservingChangesNoBit) {
  EvalOptions o = gpu_options(GetParam(), 256);
  const Logits plain = logits_of(g, o, all - 2);
  o.compute.observed = true;
  EXPECT_TRUE(equal_bits(plain, logits_of(g, o, all - 2)));
}

TEST_P(GoldenGpuBits, ChunksAndDecodingAreOnePrefillWhenBatchInvariant) {
  EvalOptions o = gpu_options(GetParam());
  o.compute.batch_invariant = true;
  const Logits whole = logits_of(g, o, all);
  for (int chunk : {7, 64, 100, 333}) {
    o.compute.step_tokens = chunk;
    EXPECT_TRUE(equal_bits(logits_of(g, o, all), whole)) << "chunks of " << chunk;
  }
  EXPECT_TRUE(equal_bits(logits_of(g, o, all - 12), whole)) << "the last tokens decoded";
}

INSTANTIATE_TEST_SUITE_P(Numerics, GoldenGpuBits, testing::Values(Numerics::bf16, Numerics::fp8),
                         [](const auto& p) { return std::string(name_of(p.param)); });

// --- through the engine: recorded steps, sampling on the device

using Engines = std::tuple<Numerics, int>;  // ranks
class EngineGpu : public WithGpu, public testing::WithParamInterface<Engines> {
 protected:
  EngineGpu() : WithGpu(std::get<1>(GetParam())) {}
  using Ids = std::vector<std::vector<int32_t>>;

  static constexpr int kLengths[] = {1, 63, 65, 257, 700};

  struct How {
    bool overlap = true;
    bool by_host = false;  // log-probabilities are asked for, so the host draws
    bool keep_selection = false;
  };

  Ids run(bool batch_invariant, bool together, float temperature) const {
    return run(batch_invariant, together, temperature, How());
  }
  Ids run(bool batch_invariant, bool together, float temperature, const How& how) const {
    const Numerics numerics = std::get<0>(GetParam());
    EvalOptions placed = gpu_options(numerics, default_step_tokens(DeviceKind::cuda), ranks());
    EngineOptions o;
    o.compute.numerics = numerics;
    o.compute.layout = placed.compute.layout;
    o.compute.device = DeviceKind::cuda;
    o.compute.threads = 1;
    o.compute.context = 2048;
    o.compute.step_tokens = default_step_tokens(DeviceKind::cuda);
    o.compute.index_budget = default_index_budget(DeviceKind::cuda);
    o.compute.batch_invariant = batch_invariant;
    o.overlap = how.overlap;
    o.keep_selection = how.keep_selection;
    Engine engine(checkpoint(false).config(), rank_weights_for(false, placed), o);
    Ids ids(std::size(kLengths));
    for (size_t i = 0; i < ids.size(); ++i) {
      std::mt19937 random(static_cast<unsigned>(i));
      Request r;
      for (int n = 0; n < kLengths[i]; ++n) r.ids.push_back(static_cast<int32_t>(random() % 4000));
      r.max_new_tokens = 24;
      r.sampling.temperature = temperature;
      r.sampling.seed = 5;
      r.logprobs = how.by_host ? 3 : -1;
      r.keep_selection = how.keep_selection;
      r.sink = [&, i, how](const TokenEvent& e) {
        if (e.token >= 0) ids[i].push_back(e.token);
        EXPECT_EQ(e.logprobs != nullptr, how.by_host);
        if (how.keep_selection) expect_sound(e.selection, kLengths[i] + std::ssize(ids[i]) - 1);
        EXPECT_NE(e.finish, Finish::error) << e.error;
      };
      EXPECT_TRUE(engine.submit(std::move(r)).ok());
      while (!together && engine.step()) engine.check_integrity();
    }
    while (engine.step()) engine.check_integrity();
    for (const auto& each : ids) EXPECT_EQ(each.size(), 24u);
    return ids;
  }

  // As many as there are, up to top-k, ascending, none behind the query.
  static void expect_sound(const Selection* s, int64_t before) {
    ASSERT_TRUE(s);
    const Config& c = checkpoint(false).config();
    EXPECT_EQ(s->position, before - 1);
    ASSERT_EQ(s->layers.size(), static_cast<size_t>(c.layers));
    for (std::span<const int32_t> picks : s->layers) {
      ASSERT_EQ(std::ssize(picks), std::min<int64_t>(before, c.index_topk));
      EXPECT_TRUE(std::is_sorted(picks.begin(), picks.end(), std::less_equal<>()));
      EXPECT_GE(picks.front(), 0);
      EXPECT_LT(picks.back(), before);
    }
  }
};

TEST_P(EngineGpu, OverlapHostDrawsAndSelectionsChangeNoToken) {
  for (float temperature : {0.0f, 1.0f}) {
    const Ids want = run(true, true, temperature);
    EXPECT_EQ(run(true, true, temperature, {.overlap = false}), want) << "one step at a time";
    EXPECT_EQ(run(true, true, temperature, {.by_host = true}), want) << "drawn by the host";
    EXPECT_EQ(run(true, true, temperature, {.keep_selection = true}), want) << "selections kept";
  }
}

TEST_P(EngineGpu, ARequestAloneGetsWhatItGetsAmongFiveWhenBatchInvariant) {
  for (float temperature : {0.0f, 1.0f})
    EXPECT_EQ(run(true, true, temperature), run(true, false, temperature)) << temperature;
}

TEST_P(EngineGpu, TheSameRequestsGetTheSameTokensAgain) {
  for (float temperature : {0.0f, 1.0f})
    EXPECT_EQ(run(false, true, temperature), run(false, true, temperature)) << temperature;
}

INSTANTIATE_TEST_SUITE_P(Numerics, EngineGpu,
                         testing::Combine(testing::Values(Numerics::bf16, Numerics::fp8),
                                          testing::Values(1, 2)),
                         [](const auto& p) {
                           return fmt::format("{}_{}", name_of(std::get<0>(p.param)),
                                              std::get<1>(p.param));
                         });

}  // namespace
}  // namespace fathom::golden
