// The lightning indexer against its formulas: query and key treatment, scores, picks, ties.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "selfcheck/plain.h"
#include "selfcheck/synthetic.h"

namespace fathom {
namespace {

// Limits of the relative error of a whole vector. exact: float32 angles. bf16: roundings to bf16.
// fp8: e4m3's own error (one part in 32, root mean square).
constexpr double kSelectionLimit[] = {1e-4, 0x1p-7, 0x1p-4};

struct Worst {
  double error[3] = {0, 0, 0};
  void add(Numerics n, double e) {
    double& w = error[static_cast<size_t>(n)];
    w = std::max(w, e);
  }
  std::string figure() const {
    return fmt::format("exact {:.0e}  bf16 {:.1e}  fp8 {:.1e}", error[0], error[1], error[2]);
  }
  bool within(std::span<const double> limit) const {
    return error[0] <= limit[0] && error[1] <= limit[1] && error[2] <= limit[2];
  }
};

std::string limit_text(std::span<const double> limit) {
  return fmt::format("{:.0e}, {:.0e}, {:.0e}", limit[0], limit[1], limit[2]);
}

// Rope first, in split halves; then the Hadamard rotation in front of fp8.
std::vector<double> treated(std::vector<double> x, const Config& c, int64_t position,
                            Numerics numerics) {
  plain_rotate(x.data(), plain_frequencies(c), position, Pairing::halves);
  return numerics == Numerics::fp8 ? plain_hadamard(x) : x;
}

void check_query(Stage& stage, const Config& c, Numerics numerics, Worst& worst) {
  int64_t tokens = stage.batch().tokens, heads = c.index_heads, dim = c.index_dim;
  OwnedTensor q = stage.random(stage.activations(), {tokens, heads, dim});
  OwnedTensor weight = stage.random(DType::f32, {tokens, heads});
  // An op may use its inputs as workspace.
  std::vector<int32_t> all(static_cast<size_t>(tokens));
  std::iota(all.begin(), all.end(), 0);
  OwnedTensor before = copy_rows(weight.t, all), q_before = copy_rows(q.t, all);
  OwnedTensor out = stage.zeros(stage.index_dtype(), {tokens, heads, dim});
  stage.ops().index_query(out.t, weight.t, q.t, stage.batch(), stage.rope());
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t h = 0; h < heads; ++h) {
      // The op multiplies the head weight by IH^-0.5 dim^-0.5 and by the scale of the query's
      // codes.
      double scale = double{weight.t.row<float>(t)[h]} / before.t.row<float>(t)[h] *
                     std::sqrt(static_cast<double>(heads * dim));
      std::vector<double> in, got;
      for (int64_t i = h * dim; i < (h + 1) * dim; ++i) {
        in.push_back(index_value(q_before.t, t, i));
        got.push_back(index_value(out.t, t, i) * scale);
      }
      worst.add(numerics,
                relative_error(got, treated(in, c, stage.batch().positions[t], numerics)));
    }
}

void check_key(Stage& stage, const Config& c, Numerics numerics, Worst& worst) {
  int64_t tokens = stage.batch().tokens, dim = c.index_dim;
  OwnedTensor k = stage.random(stage.activations(), {tokens, dim});
  OwnedTensor gain = stage.random(DType::f32, {1, dim}), bias = stage.random(DType::f32, {1, dim});
  stage.ops().append_index_key(stage.kv(), k.t, {gain.t.row<float>(0), bias.t.row<float>(0)},
                               stage.batch(), stage.rope());
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<double> x;
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < dim; ++i) x.push_back(index_value(k.t, t, i));
    for (double v : x) mean += v / static_cast<double>(dim);
    for (double v : x) variance += (v - mean) * (v - mean) / static_cast<double>(dim);
    for (size_t i = 0; i < x.size(); ++i)
      x[i] = (x[i] - mean) / std::sqrt(variance + 1e-6) * gain.t.row<float>(0)[i] +
             bias.t.row<float>(0)[i];
    int32_t position = stage.batch().positions[t];
    std::vector<double> got =
        read_index_key(stage.kv(), stage.batch().cache_row(static_cast<int>(t), position));
    worst.add(numerics, relative_error(got, treated(x, c, position, numerics)));
  }
}

// Tokens at the last position of a context a little longer than the checkpoint's own top-k.
struct Selection {
  Stage stage;
  int64_t topk, context;
  OwnedTensor q, weight, picked;

  Selection(const CheckContext& c, const Config& config, Numerics numerics)
      : stage(c, config, numerics, config.index_topk + 150, {config.index_topk + 149}),
        topk(config.index_topk),
        context(topk + 150),
        q(stage.zeros(stage.index_dtype(), {1, config.index_heads, config.index_dim})),
        weight(stage.zeros(DType::f32, {1, config.index_heads})),
        picked(stage.zeros(DType::i32, {1, topk})) {}

  bool picks(std::span<const float> scores) {
    stage.ops().index_topk(picked.t, q.t, weight.t, stage.kv(), stage.batch());
    std::vector<int32_t> want = plain_selection(scores, topk);
    return std::equal(want.begin(), want.end(), picked.t.row<int32_t>(0));
  }
};

// Every score is zero, some of them -0: the order of positions alone decides.
bool zero_query(Selection& s) {
  TestValues values(3);
  std::vector<float> key(static_cast<size_t>(s.stage.kv().index_dim));
  for (int64_t pos = 0; pos < s.context; ++pos) {
    for (float& v : key) v = values.value();
    s.stage.write_index_key(pos, key);
  }
  for (int64_t h = 0; h < s.weight.t.row_size(); ++h) s.weight.t.row<float>(0)[h] = h % 2 ? 1 : -1;
  return s.picks(std::vector<float>(static_cast<size_t>(s.context), 0.0f));
}

// Scores are exactly 0 to 4, each of them many times, so the last pick is one of several equals.
bool tied_levels(Selection& s) {
  std::vector<float> level, key(static_cast<size_t>(s.stage.kv().index_dim));
  for (int64_t pos = 0; pos < s.context; ++pos) {
    level.push_back(static_cast<float>(pos * 7 % 5));
    key[0] = level.back();
    s.stage.write_index_key(pos, key);
  }
  set_index_value(s.q.t, 0, 0, 1.0f);
  for (int64_t h = 0; h < s.weight.t.row_size(); ++h) s.weight.t.row<float>(0)[h] = 1;
  return s.picks(level);
}

// Random queries and keys: scores against the formula, picks against the scores. Returns the
// greatest error of a score as a share of what float32 sums may cost.
double random_scores(Selection& s, bool& right) {
  const KvView& kv = s.stage.kv();
  int64_t heads = s.weight.t.row_size(), dim = kv.index_dim;
  TestValues values(5);
  std::vector<float> key(static_cast<size_t>(dim)), score(static_cast<size_t>(s.context));
  for (int64_t pos = 0; pos < s.context; ++pos) {
    for (float& v : key) v = values.value();
    s.stage.write_index_key(pos, key);
  }
  for (int64_t i = 0; i < heads * dim; ++i) set_index_value(s.q.t, 0, i, values.value());
  for (int64_t h = 0; h < heads; ++h) s.weight.t.row<float>(0)[h] = values.value();
  Tensor row(score.data(), DType::f32, {1, s.context});
  const int32_t token = 0;
  s.stage.ops().index_scores(row, {&token, 1}, s.q.t, s.weight.t, kv, s.stage.batch());
  right = right && s.picks(score);
  double worst = 0;
  for (int64_t pos = 0; pos < s.context; ++pos) {
    std::vector<double> k = read_index_key(kv, s.stage.batch().cache_row(0, pos));
    double want = 0, magnitude = 0;
    for (int64_t h = 0; h < heads; ++h) {
      double dot = 0, size = 0, w = s.weight.t.row<float>(0)[h];
      for (int64_t i = 0; i < dim; ++i) {
        double product = index_value(s.q.t, 0, h * dim + i) * k[static_cast<size_t>(i)];
        dot += product;
        size += std::fabs(product);
      }
      want += std::max(dot, 0.0) * w;
      magnitude += size * std::fabs(w);
    }
    double error = std::fabs(score[static_cast<size_t>(pos)] - want);
    worst = std::max(worst, error / ((sum_error(dim) + sum_error(heads)) * magnitude + 1e-30));
  }
  return worst;
}

}  // namespace

void check_indexer_formulas(CheckContext& c) {
  const char* query_words = "queries: rope first, in split halves, then Hadamard, then scaled";
  const char* key_words = "keys: layer norm, rope in split halves, then Hadamard";
  if (!c.config.has_indexer()) {
    c.skip("selection.query", query_words, "not applicable: no indexer");
    c.skip("selection.key", key_words, "not applicable: no indexer");
    return;
  }
  Worst query, key;
  for (Numerics numerics : kAllNumerics) {
    int32_t last = static_cast<int32_t>(c.length()) - 1;
    Stage stage(c, c.config, numerics, c.length(), {0, 1, 37, last});
    check_query(stage, c.config, numerics, query);
    check_key(stage, c.config, numerics, key);
  }
  c.add("selection.query", query_words, query.figure(), limit_text(kSelectionLimit),
        query.within(kSelectionLimit));
  c.add("selection.key", key_words, key.figure(), limit_text(kSelectionLimit),
        key.within(kSelectionLimit));
}

void check_selection(CheckContext& c) {
  const char *score_words = "scores: ReLU, then head weights",
             *best_words = "the picks are the k best scores",
             *zero_words = "all scores 0 or -0: the lowest positions win",
             *tie_words = "equal scores at the cut: the lower positions win";
  if (!c.config.has_indexer()) {
    for (auto [id, words] : {std::pair{"scores", score_words},
                             {"best", best_words},
                             {"zero_query", zero_words},
                             {"ties", tie_words}})
      c.skip(fmt::format("selection.{}", id), words, "not applicable: no indexer");
    return;
  }
  Config own = c.config;  // with the checkpoint's own top-k: these runs are short anyway
  own.index_topk = static_cast<int>(c.model_topk);
  int best = 0, zero = 0, tied = 0;
  double scores[3] = {0, 0, 0};
  for (Numerics numerics : kAllNumerics) {
    Selection s(c, own, numerics);
    zero += zero_query(s);
    tied += tied_levels(s);
    bool right = true;
    scores[static_cast<size_t>(numerics)] = random_scores(s, right);
    best += right;
  }
  c.add("selection.scores", score_words,
        fmt::format("exact {:.2f}  bf16 {:.2f}  fp8 {:.2f}", scores[0], scores[1], scores[2]),
        "1 x bound", scores[0] <= 1 && scores[1] <= 1 && scores[2] <= 1);
  auto line = [&](const char* id, const char* words, int right) {
    c.add(fmt::format("selection.{}", id), words,
          fmt::format("{} of 3 numerics, top-k {}", right, c.model_topk), "3 of 3", right == 3);
  };
  line("best", best_words, best);
  line("zero_query", zero_words, zero);
  line("ties", tie_words, tied);
}

}  // namespace fathom
