// The golden files: answers of an independent NumPy engine (tests/data/golden/README.md). Bounds
// are those of docs/numerics.md: exact is compared tightly, bf16 and fp8 with the recorded floor of
// what another summation order alone costs, fp8 layer by layer besides.
#include "runtime/golden.h"

#include <gmock/gmock.h>

#include "kernels/cpu_ops.h"

namespace fathom::golden {
namespace {

const char* const kAll[] = {"tiny",           "small-hello",      "small-story",
                            "small-find-700", "small-prose-1000", "small-find-2500"};
// Files of 20 rows and more: enough for a median.
const char* const kLong[] = {"tiny", "small-find-700", "small-prose-1000", "small-find-2500"};

// Options for each of the kernels that this processor can run; the reference loops where there are
// no others.
std::vector<EvalOptions> all_kernels(Numerics numerics) {
  std::vector<EvalOptions> all;
  for (const CpuKernels& k : cpu_kernels())
    if (k.usable() && k.name != "reference") {
      all.push_back(options_of(numerics));
      all.back().compute.kernels = k.name;
    }
  if (all.empty()) all.push_back(options_of(numerics));
  return all;
}

class ExactTest : public testing::TestWithParam<const char*> {};

TEST_P(ExactTest, AgreesWithTheOracle) {
  Golden g(GetParam());
  for (auto [name, attention, mtp] :
       {std::tuple("exact.logits", AttentionMode::sparse, ""),
        std::tuple("exact.dense.logits", AttentionMode::dense, ""),
        std::tuple("exact.mtp_logits", AttentionMode::sparse, "exact.mtp_logits")}) {
    if (!g.file.find(name)) continue;
    for (EvalOptions& o : all_kernels(Numerics::exact)) {
      o.compute.attention = attention;
      Summary s = summary(g.distance(name, o, mtp));
      EXPECT_LE(s.mean, 1e-6) << name << " " << o.compute.kernels;
      EXPECT_LE(s.max, 1e-4) << name << " " << o.compute.kernels;
    }
  }
}

// A tie broken otherwise or a token chosen by chance would show here.
TEST_P(ExactTest, ContinuesGreedilyTokenForToken) {
  Golden g(GetParam());
  if (!g.file.find("exact.greedy")) GTEST_SKIP() << "no continuation recorded";
  std::vector<int32_t> want = ints(g.file.at("exact.greedy"));
  const Checkpoint& c = checkpoint(g.tiny);
  int64_t length = static_cast<int64_t>(g.tokens.size() + want.size());
  EvalOptions options = options_of(Numerics::exact);
  options.compute.context = length;
  Evaluator evaluator(c.config(), c.weights(), options);
  int32_t next = -1;
  auto pick = [&](int64_t, std::span<const float> l) {
    next = static_cast<int32_t>(std::max_element(l.begin(), l.end()) - l.begin());
  };
  int64_t last = evaluator.position() + static_cast<int64_t>(g.tokens.size()) - 1;
  evaluator.feed(g.tokens, std::span(&last, 1), pick);
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_EQ(next, want[i]) << "token " << i;
    last = evaluator.position();
    evaluator.feed(std::span(&want[i], 1), std::span(&last, 1), pick, /*decode=*/true);
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, ExactTest, testing::ValuesIn(kAll), [](const auto& instance) {
  std::string name = instance.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

class FloorTest : public testing::TestWithParam<const char*> {};

// The avx512 kernels meet the bounds with every row. The others may leave out one row in a
// near-tie; avx2 two: its sums turn rows 900 and 1801 of small-find-2500 (docs/numerics.md).
int spared_rows(const std::string& kernels) {
  return kernels == "avx512" ? 0 : kernels == "avx2" ? 2 : 1;
}

void expect_floor_on_cpu(const char* name, Numerics numerics) {
  for (const EvalOptions& o : all_kernels(numerics)) {
    SCOPED_TRACE(o.compute.kernels);
    expect_within_floor(Golden(name), o, spared_rows(o.compute.kernels));
  }
}

TEST_P(FloorTest, Bf16IsAsCloseToExactAsBf16CanBe) {
  expect_floor_on_cpu(GetParam(), Numerics::bf16);
}

TEST_P(FloorTest, Fp8IsAsCloseToTheOracleAsFp8CanBe) {
  expect_floor_on_cpu(GetParam(), Numerics::fp8);
}

INSTANTIATE_TEST_SUITE_P(Golden, FloorTest, testing::ValuesIn(kLong), [](const auto& instance) {
  std::string name = instance.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

// --- inner values of the tiny checkpoint

// Runs with taps on `rows`.
std::map<int, LayerTaps> taps_of(const Checkpoint& c, EvalOptions options,
                                 std::span<const int32_t> tokens, std::vector<int64_t> rows) {
  TapOps* taps = nullptr;
  int64_t context = static_cast<int64_t>(tokens.size());
  options.wrap = [&](Ops& inner) {
    auto wrapped = std::make_unique<TapOps>(inner, rows, context);
    taps = wrapped.get();
    return wrapped;
  };
  options.compute.context = context;
  Evaluator evaluator(c.config(), c.weights(), options);
  evaluator.feed(tokens, {}, {});
  return taps->layers();
}

TEST(TinyTaps, ExactLayersPicksAndExpertsAgree) {
  Golden g("tiny");
  std::vector<int64_t> rows;
  for (int32_t r : ints(g.file.at("taps_rows"))) rows.push_back(r);
  ASSERT_TRUE(std::is_sorted(rows.begin(), rows.end()));
  auto layers = taps_of(checkpoint(true), options_of(Numerics::exact), g.tokens, rows);
  ASSERT_EQ(layers.size(), 2U);
  const size_t context = g.tokens.size();
  for (auto& [layer, taps] : layers) {
    std::string p = "exact.L" + std::to_string(layer) + ".";
    std::vector<float> out = to_floats(g.file.at(p + "out"));
    ASSERT_EQ(taps.out.size(), out.size());
    double error = 0, norm = 0;
    for (size_t i = 0; i < out.size(); ++i) {
      error += std::pow(taps.out[i] - out[i], 2);
      norm += std::pow(out[i], 2);
    }
    EXPECT_LE(std::sqrt(error / norm), 1e-5) << "layer " << layer;

    std::vector<float> score = to_floats(g.file.at(p + "index_score"));
    const auto* selected = reinterpret_cast<const uint8_t*>(g.file.at(p + "selected").data);
    for (size_t r = 0; r < rows.size(); ++r) {
      float cut = INFINITY, worst = 0;  // lowest selected score; score error of the row
      for (size_t s = 0; s <= static_cast<size_t>(rows[r]); ++s) {
        size_t at = r * context + s;
        if (selected[at]) cut = std::min(cut, score[at]);
        worst = std::max(worst, std::fabs(taps.index_score[at] - score[at]));
      }
      EXPECT_LE(worst, 1e-4) << "layer " << layer << " row " << rows[r];
      for (size_t s = 0; s < context; ++s)
        if (taps.selected[r * context + s] != selected[r * context + s]) {
          EXPECT_NEAR(score[r * context + s], cut, 2 * worst) << "not a near-tie: position " << s;
        }
    }
    if (g.file.find(p + "experts")) {
      EXPECT_EQ(taps.experts, ints(g.file.at(p + "experts"))) << "layer " << layer;
    }
  }
}

TEST(Fp8Layers, EachLayerOnTheOraclesInputIsWithinItsFloor) {
  for (const EvalOptions& o : all_kernels(Numerics::fp8)) {
    SCOPED_TRACE(o.compute.kernels);
    expect_layers_within_floor(o);
  }
}

}  // namespace
}  // namespace fathom::golden
