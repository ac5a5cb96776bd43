// The golden files, and what the tests of CPU and GPU ask of an answer: answers of an independent
// NumPy engine (tests/data/golden/README.md) and the bounds of docs/numerics.md.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <tuple>

#include "io/safetensors.h"
#include "model/checkpoint.h"
#include "runtime/device.h"
#include "runtime/evaluator.h"
#include "runtime/taps.h"

namespace fathom::golden {

inline const std::string kData = FATHOM_SOURCE_DIR "/tests/data/";
inline const std::string kSmall = FATHOM_SOURCE_DIR "/models/small";

inline const Checkpoint& checkpoint(bool tiny) {
  static const auto small_model = Checkpoint::load(kSmall, {});
  static const auto tiny_model = Checkpoint::load(kData + "tiny", {});
  return tiny ? *tiny_model : *small_model;
}

// The checkpoint's weights where these options need them, placed once and kept.
inline const Weights& weights_for(bool tiny, const EvalOptions& o) {
  const Checkpoint& c = checkpoint(tiny);
  const ComputePlan& p = o.compute;
  const bool gpu = p.device == DeviceKind::cuda;
  // Never destroyed: the driver may be gone by then.
  static auto& placed =
      *new std::map<std::tuple<bool, std::string, Numerics, bool>, DeviceWeights>();
  return placed
      .try_emplace({tiny, gpu ? "gpu" : p.kernels, gpu ? p.numerics : Numerics::exact, p.observed},
                   c.config(), c.weights(), p)
      .first->second.get();
}

// The same for each rank of the options' layout.
inline RankWeights rank_weights_for(bool tiny, const EvalOptions& o) {
  const RankLayout layout = o.compute.layout.at(0);
  if (layout.ranks() == 1) return weights_for(tiny, o);
  static auto& loaded = *new std::map<std::tuple<bool, int, int>, std::unique_ptr<Checkpoint>>();
  std::unique_ptr<Checkpoint>& c = loaded[{tiny, layout.tensor, layout.data}];
  CheckpointOptions options;
  options.layout = layout;
  if (!c) c = Checkpoint::load(tiny ? kData + "tiny" : kSmall, options);
  if (o.compute.device == DeviceKind::cpu) return c->rank_weights();
  static auto& placed = *new std::map<std::tuple<bool, int, int, Numerics, bool>, DeviceWeights>();
  return placed
      .try_emplace({tiny, layout.tensor, layout.data, o.compute.numerics, o.compute.observed},
                   c->config(), c->rank_weights(), o.compute)
      .first->second.ranks();
}

inline std::vector<int32_t> ints(const StoredTensor& t) {
  const auto* p = reinterpret_cast<const int32_t*>(t.data);
  return {p, p + t.elements()};
}

// KL(p || q) in nats of two rows of logits.
inline double kl(std::span<const float> p, std::span<const float> q) {
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

inline Summary summary(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  Summary s;
  for (double v : x) s.mean += v / static_cast<double>(x.size());
  s.median = (x[(x.size() - 1) / 2] + x[x.size() / 2]) / 2;
  s.max = x.back();
  return s;
}

struct Golden {
  explicit Golden(const std::string& name)
      : title(name),
        tiny(name == "tiny"),
        file(SafetensorsFile::open(kData + "golden/" + name + ".safetensors")) {
    tokens = ints(file.at("tokens"));
    for (int32_t r : ints(file.at("rows"))) rows.push_back(r);
  }
  std::string title;
  bool tiny;
  SafetensorsFile file;
  std::vector<int32_t> tokens;
  std::vector<int64_t> rows;

  // KL of every kept row from the golden logits `name`.
  std::vector<double> distance(const std::string& name, EvalOptions options,
                               const std::string& mtp_name = {}) const {
    const Checkpoint& c = checkpoint(tiny);
    std::vector<float> want = to_floats(file.at(mtp_name.empty() ? name : mtp_name));
    options.compute.mtp = !mtp_name.empty();
    options.compute.context = static_cast<int64_t>(tokens.size());
    Evaluator evaluator(c.config(), rank_weights_for(tiny, options), options);
    size_t vocab = static_cast<size_t>(c.config().vocab);
    std::map<int64_t, double> found;
    auto measure = [&](int64_t row, std::span<const float> got) {
      size_t i = static_cast<size_t>(std::find(rows.begin(), rows.end(), row) - rows.begin());
      if ((i + 1) * vocab > want.size()) return;  // MTP has no answer for the last row
      found[row] = kl(std::span(want).subspan(i * vocab, vocab), got);
    };
    if (options.compute.mtp) evaluator.set_mtp_sink(measure);
    evaluator.feed(tokens, rows, options.compute.mtp ? Evaluator::RowSink() : measure);
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

inline EvalOptions options_of(Numerics numerics) {
  EvalOptions o;
  o.compute.numerics = numerics;
  return o;
}

// A row at a near-tie of experts or picks weighs some hundred times the median, and which side it
// falls on is luck (docs/numerics.md): `spared` rows may be left out of the mean.
inline void expect_within_floor(const Golden& g, const EvalOptions& options, int spared) {
  const bool fp8 = options.compute.numerics == Numerics::fp8;
  const char* logits = fp8 ? "faithful.logits" : "exact.logits";
  std::vector<double> rows = g.distance(logits, options);
  Summary limit = g.floor(fp8 ? "faithful.floor_kl" : "bf16.floor_kl");
  EXPECT_LE(summary(rows).median, 1.5 * limit.median) << logits;
  for (int i = 0; i < spared; ++i) rows.erase(std::max_element(rows.begin(), rows.end()));
  EXPECT_LE(summary(rows).mean, 2.5 * limit.mean) << logits;
}

// The MTP block has answers in exact numerics only, so its floor is what two correct engines lose
// in the same numerics, the CPU's reference kernels and its fastest: the greater of the two, as 25
// rows differ by half between engines. One row in a near-tie is spared, as above.
inline void expect_mtp_within_floor(const Golden& g, const EvalOptions& options) {
  const char* answer = "exact.mtp_logits";
  // Long prompts take the reference seconds: each floor is found once.
  static auto& floors = *new std::map<std::pair<std::string, Numerics>, Summary>();
  auto [limit_of, fresh] = floors.try_emplace({g.title, options.compute.numerics});
  Summary& limit = limit_of->second;
  for (const char* kernels : {"reference", ""}) {
    if (!fresh) break;
    EvalOptions cpu = options_of(options.compute.numerics);
    cpu.compute.kernels = kernels;
    const Summary found = summary(g.distance(answer, cpu, answer));
    limit.median = std::max(limit.median, found.median);
    limit.mean = std::max(limit.mean, found.mean);
  }
  std::vector<double> rows = g.distance(answer, options, answer);
  EXPECT_LE(summary(rows).median, 1.5 * limit.median);
  rows.erase(std::max_element(rows.begin(), rows.end()));
  EXPECT_LE(summary(rows).mean, 2.5 * limit.mean);
}

// fp8 layer by layer, each on the oracle's input: the sharp test (a dropped rotation shows here and
// nowhere else).
// Median error of a layer in floors, and the share of the oracle's picks to be found.
struct LayerLimits {
  double error = 1.3, picks = 0.999;
};

inline void expect_layers_within_floor(EvalOptions o, LayerLimits allowed = {}) {
  const Checkpoint& c = checkpoint(false);
  SafetensorsFile file = SafetensorsFile::open(kData + "golden/small-layers.safetensors");
  const int64_t tokens = file.at("hidden").shape[0], width = file.at("hidden").shape[1];
  std::vector<int64_t> rows(static_cast<size_t>(tokens));
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int64_t>(i);
  std::vector<float> input = to_floats(file.at("hidden"));
  double worst = 0;  // median error of a layer, in floors

  for (int layer = 0; layer < c.config().layers; ++layer) {
    std::string p = "L" + std::to_string(layer) + ".";
    TapOps* taps = nullptr;
    o.wrap = [&](Ops& inner) {
      auto wrapped = std::make_unique<TapOps>(inner, rows, tokens);
      taps = wrapped.get();
      return wrapped;
    };
    o.compute.context = tokens;
    Evaluator evaluator(c.config(), rank_weights_for(false, o), o);
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
    worst = std::max(worst, summary(errors).median / floor[0]);
    EXPECT_LE(summary(errors).median, allowed.error * floor[0]) << "layer " << layer;
    EXPECT_GE(static_cast<double>(equal_picks) / static_cast<double>(picks), allowed.picks)
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
  testing::Test::RecordProperty("worst_layer_in_floors", fmt::format("{:.3f}", worst));
}

}  // namespace fathom::golden
