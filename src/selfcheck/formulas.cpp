// Rotary embedding, softmax scale and router against their formulas.
#include <algorithm>
#include <cmath>

#include "selfcheck/plain.h"
#include "selfcheck/synthetic.h"

namespace fathom {
namespace {

constexpr double kVectorLimit[] = {1e-4, 0x1p-7};  // exact, bf16; see indexer.cpp

// The rotation table that the kernels were given. Its angles are float32 products of position and
// frequency.
void check_table(CheckContext& c, const RopeTable& rope) {
  std::vector<double> f = plain_frequencies(c.config);
  double worst = 0, unit = 0;
  int64_t pairs = rope.dim / 2;
  for (int64_t pos = 0; pos < rope.positions; ++pos)
    for (int64_t i = 0; i < pairs; ++i) {
      double angle = static_cast<double>(pos) * f[static_cast<size_t>(i)];
      double cos = rope.cos_at(pos)[i], sin = rope.sin_at(pos)[i];
      double error = std::max(std::fabs(cos - std::cos(angle)), std::fabs(sin - std::sin(angle)));
      worst = std::max(worst, error / (4 * kUnit * (1 + angle)));
      unit = std::max(unit, std::fabs(cos * cos + sin * sin - 1) / (4 * kUnit));
    }
  c.add("rotation.table", "cos and sin table: YaRN's formula in float64, length 1",
        fmt::format("{:.2f}, length {:.2f}", worst, unit), "1 x bound", worst <= 1 && unit <= 1);
}

void check_scale(CheckContext& c, const std::vector<float>& scales) {
  double want = plain_softmax_scale(c.config), worst = 0;
  for (float s : scales) worst = std::max(worst, std::fabs(s / want - 1));
  c.add("rotation.scale", "softmax scale: (nope + rope)^-0.5 * mscale^2",
        fmt::format("{:.7f}, off by {:.0e}", scales.empty() ? 0 : scales[0], worst),
        fmt::format("{:.7f}", want), !scales.empty() && worst <= 2 * kUnit);
}

double query_error(Stage& stage, const Config& c) {
  int64_t tokens = stage.batch().tokens, dim = c.qk_dim();
  OwnedTensor q = stage.random(stage.activations(), {tokens, c.heads, dim});
  std::vector<std::vector<float>> before;
  for (int64_t t = 0; t < tokens; ++t) before.push_back(row_values(q.t, t));
  stage.ops().rope_query(q.t, stage.batch(), stage.rope());
  double worst = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<float> after = row_values(q.t, t);
    std::vector<double> got(after.begin(), after.end());
    std::vector<double> want(before[static_cast<size_t>(t)].begin(),
                             before[static_cast<size_t>(t)].end());
    for (int64_t h = 0; h < c.heads; ++h) {
      double* rope = &want[static_cast<size_t>(h * dim + c.nope)];
      plain_rotate(rope, plain_frequencies(c), stage.batch().positions[t], Pairing::neighbours);
      size_t at = static_cast<size_t>(h * dim), n = static_cast<size_t>(dim);
      worst = std::max(worst, relative_error({&got[at], n}, {&want[at], n}));
    }
  }
  return worst;
}

// Latent and rope part separately: the latent is far longer and would hide an error of the other.
double latent_error(Stage& stage, const Config& c) {
  int64_t tokens = stage.batch().tokens;
  size_t latent = static_cast<size_t>(c.latent), rope = static_cast<size_t>(c.rope);
  OwnedTensor x = stage.random(stage.activations(), {tokens, c.latent + c.rope});
  OwnedTensor gain = stage.random(DType::f32, {1, c.latent});
  stage.ops().append_latent(stage.kv(), x.t, gain.t.row<float>(0), c.norm_eps, stage.batch(),
                            stage.rope());
  double worst = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<float> in = row_values(x.t, t), row(in.size());
    std::vector<double> want(in.begin(), in.end());
    double square = 0;
    for (size_t i = 0; i < latent; ++i) square += want[i] * want[i];
    for (size_t i = 0; i < latent; ++i)
      want[i] *= gain.t.row<float>(0)[i] / std::sqrt(square / c.latent + c.norm_eps);
    int32_t position = stage.batch().positions[t];
    plain_rotate(&want[latent], plain_frequencies(c), position, Pairing::neighbours);
    read_latent_row(stage.kv(), stage.batch().cache_row(static_cast<int>(t), position), row.data());
    std::vector<double> got(row.begin(), row.end());
    worst = std::max({worst, relative_error({&got[0], latent}, {&want[0], latent}),
                      relative_error({&got[latent], rope}, {&want[latent], rope})});
  }
  return worst;
}

struct RouterScore {
  int64_t rows = 0, wrong = 0;
  double worst = 0;  // relative error of a weight
};

// Routes `x` with the kernels' router and with the plain one. Rows whose choice a float32 sum could
// turn either way may differ.
void compare_router(Stage& stage, const CheckContext& c, const QWeight& gate, const float* bias,
                    Tensor x, RouterScore& score) {
  RouterShape shape = c.config.router();
  OwnedTensor ids = stage.zeros(DType::i32, {x.rows(), shape.per_token});
  OwnedTensor weights = stage.zeros(DType::f32, {x.rows(), shape.per_token});
  stage.ops().route(ids.t, weights.t, x, gate, bias, shape);
  double gate_length = longest_row(gate);
  for (int64_t t = 0; t < x.rows(); ++t, ++score.rows) {
    std::vector<float> row = row_values(x, t);
    PlainRouting want = plain_routing(router_logits(gate, row), bias, shape);
    double doubt = sum_error(gate.cols) * norm_of(row) * gate_length + 8 * kUnit;
    // A tie in float64 is a tie in float32 only where inputs make sums exact (margin 0).
    if (!std::equal(want.ids.begin(), want.ids.end(), ids.t.row<int32_t>(t))) {
      score.wrong += want.margin > 2 * doubt || want.margin == 0;
      continue;
    }
    for (size_t k = 0; k < want.ids.size(); ++k) {
      double error = std::fabs(weights.t.row<float>(t)[k] / want.weights[k] - 1);
      score.worst = std::max(score.worst, error / (2 * doubt + 32 * kUnit));
    }
  }
}

void add_router_line(CheckContext& c, const char* id, const char* words, const RouterScore& s) {
  c.add(fmt::format("router.{}", id), words,
        fmt::format("{} of {} tokens wrong, weights {:.2f}", s.wrong, s.rows, s.worst),
        "0, 1 x bound", s.wrong == 0 && s.worst <= 1 && s.rows > 0);
}

}  // namespace

void check_rotation(CheckContext& c) {
  int32_t last = static_cast<int32_t>(c.length()) - 1;
  double query[2], latent[2];
  Numerics both[] = {Numerics::exact, Numerics::bf16};
  for (size_t n = 0; n < 2; ++n) {
    Stage stage(c, c.config, both[n], c.length(), {0, 1, 37, last});
    query[n] = query_error(stage, c.config);
    latent[n] = latent_error(stage, c.config);
  }
  Rig rig = c.rig(c.eval(Numerics::bf16));
  rig.run(std::span(c.ids).first(2), {1}, 1, {});
  const Record& r = rig.record();
  check_table(c, {r.cos.data(), r.sin.data(), c.config.rope,
                  static_cast<int64_t>(r.cos.size()) / (c.config.rope / 2)});
  check_scale(c, r.scales);
  auto line = [&](const char* id, const char* words, const double* error) {
    c.add(fmt::format("rotation.{}", id), words,
          fmt::format("exact {:.0e}  bf16 {:.1e}", error[0], error[1]),
          fmt::format("{:.0e}, {:.0e}", kVectorLimit[0], kVectorLimit[1]),
          error[0] <= kVectorLimit[0] && error[1] <= kVectorLimit[1]);
  };
  line("query", "attention queries: the last part turns, in neighbouring pairs", query);
  line("latent", "cache rows: normed latent, then a key turned in neighbouring pairs", latent);
}

void check_router(CheckContext& c) {
  const char *random_words = "random inputs: chosen with bias, weighed without",
             *tie_words = "equal scores: the lower expert, the lower group";
  const MoeWeights* moe = nullptr;
  for (const LayerWeights& l : c.weights.layers)
    if (l.is_moe && !moe) moe = &l.moe;
  if (!moe) {
    c.skip("router.random", random_words, "not applicable: no experts");
    c.skip("router.ties", tie_words, "not applicable: no experts");
    return;
  }
  Stage stage(c, c.config, Numerics::exact, 64, {0});
  RouterScore random, ties;
  for (const LayerWeights& l : c.weights.layers) {
    if (!l.is_moe) continue;
    // Normed hidden states have values around 1.
    OwnedTensor x = stage.random(DType::f32, {16, c.config.hidden});
    compare_router(stage, c, l.moe.gate, l.moe.bias, x.t, random);
    if (random.rows >= 96) break;
  }
  // A zero input gives every expert the same score. Then a single input value meets gates that
  // repeat: sums are exact, and there are real ties in the middle of the order, too.
  OwnedTensor nothing = stage.zeros(DType::f32, {1, c.config.hidden});
  compare_router(stage, c, moe->gate, nullptr, nothing.t, ties);
  OwnedTensor gate = stage.zeros(DType::bf16, {c.config.experts, c.config.hidden});
  for (int64_t e = 0; e < c.config.experts; ++e)
    set_index_value(gate.t, e, 0, static_cast<float>(e * 5 % 7) / 8);
  QWeight repeated;
  repeated.data = gate.t.data;
  repeated.rows = c.config.experts;
  repeated.cols = c.config.hidden;
  OwnedTensor one = stage.zeros(DType::f32, {1, c.config.hidden});
  set_index_value(one.t, 0, 0, 1.0f);
  compare_router(stage, c, repeated, nullptr, one.t, ties);
  add_router_line(c, "random", random_words, random);
  add_router_line(c, "ties", tie_words, ties);
}

}  // namespace fathom
