// The golden files: answers of an independent NumPy engine (tests/data/golden/README.md). Bounds
// are those of docs/numerics.md: exact is compared tightly, bf16 and fp8 with the recorded floor of
// what another summation order alone costs, fp8 layer by layer besides.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "io/safetensors.h"
#include "kernels/cpu_ops.h"
#include "model/checkpoint.h"
#include "runtime/evaluator.h"
#include "runtime/taps.h"

namespace fathom {
namespace {

const std::string kData = FATHOM_SOURCE_DIR "/tests/data/";
const std::string kSmall = FATHOM_SOURCE_DIR "/models/small";

const Checkpoint& checkpoint(bool tiny) {
  static const auto small_model = Checkpoint::load(kSmall, {});
  static const auto tiny_model = Checkpoint::load(kData + "tiny", {});
  return tiny ? *tiny_model : *small_model;
}

std::vector<int32_t> ints(const StoredTensor& t) {
  const auto* p = reinterpret_cast<const int32_t*>(t.data);
  return {p, p + t.elements()};
}

// KL(p || q) in nats of two rows of logits.
double kl(std::span<const float> p, std::span<const float> q) {
  auto log_sum = [](std::span<const float> x) {
    double top = *std::max_element(x.begin(), x.end()), sum = 0;
    for (float v : x) sum += std::exp(v - top);
    return top + std::log(sum);
  };
  double lp = log_sum(p), lq = log_sum(q), sum = 0;
  for (size_t i = 0; i < p.size(); ++i) sum += std::exp(p[i] - lp) * ((p[i] - lp) - (q[i] - lq));
  return std::max(sum, 0.0);
}

struct Summary {
  double mean = 0, median = 0, max = 0;
};

Summary summary(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  Summary s;
  for (double v : x) s.mean += v / static_cast<double>(x.size());
  s.median = (x[(x.size() - 1) / 2] + x[x.size() / 2]) / 2;
  s.max = x.back();
  return s;
}

struct Golden {
  explicit Golden(const std::string& name)
      : tiny(name == "tiny"),
        file(SafetensorsFile::open(kData + "golden/" + name + ".safetensors")) {
    tokens = ints(file.at("tokens"));
    for (int32_t r : ints(file.at("rows"))) rows.push_back(r);
  }
  bool tiny;
  SafetensorsFile file;
  std::vector<int32_t> tokens;
  std::vector<int64_t> rows;

  // KL of every kept row from the golden logits `name`.
  std::vector<double> distance(const std::string& name, EvalOptions options,
                               const std::string& mtp_name = {}) const {
    const Checkpoint& c = checkpoint(tiny);
    std::vector<float> want = to_floats(file.at(mtp_name.empty() ? name : mtp_name));
    options.mtp = !mtp_name.empty();
    Evaluator evaluator(c.config(), c.weights(), static_cast<int64_t>(tokens.size()), options);
    size_t vocab = static_cast<size_t>(c.config().vocab);
    std::map<int64_t, double> found;
    auto measure = [&](int64_t row, std::span<const float> got) {
      size_t i = static_cast<size_t>(std::find(rows.begin(), rows.end(), row) - rows.begin());
      if ((i + 1) * vocab > want.size()) return;  // MTP has no answer for the last row
      found[row] = kl(std::span(want).subspan(i * vocab, vocab), got);
    };
    if (options.mtp) evaluator.set_mtp_sink(measure);
    evaluator.feed(tokens, rows, options.mtp ? Evaluator::RowSink() : measure);
    std::vector<double> out;
    for (auto [row, value] : found) out.push_back(value);
    EXPECT_EQ(out.size(), want.size() / vocab);
    return out;
  }

  Summary floor(const std::string& name) const {
    std::vector<float> f = to_floats(file.at(name));
    return summary({f.begin(), f.end()});
  }
};

EvalOptions options_of(Numerics numerics, const std::string& kernels = {}) {
  EvalOptions o;
  o.numerics = numerics;
  o.kernels = kernels;
  return o;
}

const char* const kAll[] = {"tiny",           "small-hello",      "small-story",
                            "small-find-700", "small-prose-1000", "small-find-2500"};
// Files of 20 rows and more: enough for a median.
const char* const kLong[] = {"tiny", "small-find-700", "small-prose-1000", "small-find-2500"};

class ExactTest : public testing::TestWithParam<const char*> {};

TEST_P(ExactTest, AgreesWithTheOracle) {
  Golden g(GetParam());
  for (auto [name, attention, mtp] :
       {std::tuple("exact.logits", AttentionMode::sparse, ""),
        std::tuple("exact.dense.logits", AttentionMode::dense, ""),
        std::tuple("exact.mtp_logits", AttentionMode::sparse, "exact.mtp_logits")}) {
    if (!g.file.find(name)) continue;
    EvalOptions o = options_of(Numerics::exact);
    o.attention = attention;
    Summary s = summary(g.distance(name, o, mtp));
    EXPECT_LE(s.mean, 1e-6) << name;
    EXPECT_LE(s.max, 1e-4) << name;
  }
}

// A tie broken otherwise or a token chosen by chance would show here.
TEST_P(ExactTest, ContinuesGreedilyTokenForToken) {
  Golden g(GetParam());
  if (!g.file.find("exact.greedy")) GTEST_SKIP() << "no continuation recorded";
  std::vector<int32_t> want = ints(g.file.at("exact.greedy"));
  const Checkpoint& c = checkpoint(g.tiny);
  int64_t length = static_cast<int64_t>(g.tokens.size() + want.size());
  Evaluator evaluator(c.config(), c.weights(), length, options_of(Numerics::exact));
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

// A row at a near-tie of experts or picks weighs some hundred times the median, and which side it
// falls on is luck (docs/numerics.md). The avx512 kernels meet the bounds with every row; the
// others may leave one row out of the mean.
void expect_within_floor(const Golden& g, Numerics numerics, const char* logits,
                         const char* floor) {
  std::vector<double> rows = g.distance(logits, options_of(numerics));
  Summary limit = g.floor(floor);
  EXPECT_LE(summary(rows).median, 1.5 * limit.median) << logits;
  if (pick_cpu_kernels().name != "avx512") rows.erase(std::max_element(rows.begin(), rows.end()));
  EXPECT_LE(summary(rows).mean, 2.5 * limit.mean) << logits;
}

TEST_P(FloorTest, Bf16IsAsCloseToExactAsBf16CanBe) {
  expect_within_floor(Golden(GetParam()), Numerics::bf16, "exact.logits", "bf16.floor_kl");
}

TEST_P(FloorTest, Fp8IsAsCloseToTheOracleAsFp8CanBe) {
  expect_within_floor(Golden(GetParam()), Numerics::fp8, "faithful.logits", "faithful.floor_kl");
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
  Evaluator evaluator(c.config(), c.weights(), context, options);
  evaluator.set_step_observer([&](int64_t first, int n) { taps->begin_step(first, n); });
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

// --- fp8 layer by layer: the sharp test (a dropped rotation shows here and nowhere else)

double median(std::vector<double> x) { return summary(std::move(x)).median; }

TEST(Fp8Layers, EachLayerOnTheOraclesInputIsWithinItsFloor) {
  const Checkpoint& c = checkpoint(false);
  SafetensorsFile file = SafetensorsFile::open(kData + "golden/small-layers.safetensors");
  const int64_t tokens = file.at("hidden").shape[0], width = file.at("hidden").shape[1];
  std::vector<int64_t> rows(static_cast<size_t>(tokens));
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int64_t>(i);
  std::vector<float> input = to_floats(file.at("hidden"));

  for (int layer = 0; layer < c.config().layers; ++layer) {
    std::string p = "L" + std::to_string(layer) + ".";
    TapOps* taps = nullptr;
    EvalOptions o = options_of(Numerics::fp8);
    o.wrap = [&](Ops& inner) {
      auto wrapped = std::make_unique<TapOps>(inner, rows, tokens);
      taps = wrapped.get();
      return wrapped;
    };
    Evaluator evaluator(c.config(), c.weights(), tokens, o);
    evaluator.set_step_observer([&](int64_t first, int n) { taps->begin_step(first, n); });
    evaluator.feed_hidden(layer, Tensor(input.data(), DType::f32, {tokens, width}), {}, {});
    const LayerTaps& got = taps->layers().at(layer);

    std::vector<float> want = to_floats(file.at(p + "out")),
                       floor = to_floats(file.at(p + "floor"));
    std::vector<double> errors;
    size_t equal_picks = 0, picks = 0, equal_experts = 0;
    const auto* bits = reinterpret_cast<const uint8_t*>(file.at(p + "selected_bits").data);
    const int64_t row_bytes = file.at(p + "selected_bits").shape[1];
    for (int64_t t = 0; t < tokens; ++t) {
      double error = 0, update = 0;
      for (int64_t i = t * width; i < (t + 1) * width; ++i) {
        error += std::pow(got.out[i] - want[i], 2);
        update += std::pow(want[i] - input[i], 2);
      }
      errors.push_back(std::sqrt(error / update));
      for (int64_t s = 0; s <= t; ++s) {
        bool in = bits[t * row_bytes + s / 8] >> (s % 8) & 1;
        picks += in;
        equal_picks += in && got.selected[t * tokens + s];
      }
    }
    EXPECT_LE(median(errors), 1.3 * floor[0]) << "layer " << layer;
    EXPECT_GE(static_cast<double>(equal_picks) / static_cast<double>(picks), 0.999)
        << "layer " << layer;
    if (file.find(p + "experts")) {
      std::vector<int32_t> experts = ints(file.at(p + "experts"));
      size_t k = experts.size() / static_cast<size_t>(tokens);
      for (size_t t = 0; t < static_cast<size_t>(tokens); ++t) {
        std::set<int32_t> a(&experts[t * k], &experts[t * k] + k);
        for (size_t j = 0; j < k; ++j) equal_experts += a.count(got.experts[t * k + j]);
      }
      EXPECT_GE(static_cast<double>(equal_experts) / static_cast<double>(experts.size()), 0.99)
          << "layer " << layer;
    }
    input = want;
  }
}

}  // namespace
}  // namespace fathom
