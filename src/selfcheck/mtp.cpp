// The MTP block guesses the same tokens in decode as in prefill, and guesses well.
#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <tuple>
#include <utility>

#include "selfcheck/checks.h"
#include "selfcheck/mtp_ops.h"

namespace fathom {
namespace {

// Of the tokens that the model itself would say next, the share that the block guesses one token
// ahead. The bundled model's block guesses 0.50 of this text.
constexpr double kLeastAcceptance = 0.3;
// A model that hardly ever says the text's own next token was not trained on language, and its
// block cannot guess either: weights made at random.
constexpr double kLeastAccuracy = 0.1;
// A block run wrongly may by chance guess better, by so many standard errors of the mean over the
// text's tokens. Two runs of the bundled model's block that differ as little as possible (hnorm
// left out: its input is normed already) are 1.5 apart.
constexpr double kMostErrors = 4;

const char *const kDecodeWords = "the MTP block's guesses when decoding = in a prompt",
                  *const kInputWords = "the MTP block joins the embedding with the normed state",
                  *const kAcceptanceWords = "the MTP block guesses what the model says next",
                  *const kVariantsWords =
                      "the MTP block guesses no better with a mistake in its norms or inputs";

int32_t greatest(std::span<const float> row) {
  return static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
}

// The logits of model and block at every position.
struct BothRows {
  LogitRows model, block;
};

BothRows run(CheckContext& c, EvalOptions e, std::span<const int32_t> ids, bool decode) {
  e.compute.mtp = true;
  std::vector<int64_t> rows(ids.size());
  std::iota(rows.begin(), rows.end(), 0);
  BothRows out;
  Rig rig = c.rig(e);
  rig.evaluator().set_mtp_sink([&](int64_t row, std::span<const float> logits) {
    out.block[row].assign(logits.begin(), logits.end());
  });
  rig.evaluator().feed(
      ids, rows,
      [&](int64_t row, std::span<const float> logits) {
        out.model[row].assign(logits.begin(), logits.end());
      },
      decode);
  out.block.erase(rows.back());  // nothing follows its last token
  return out;
}

void check_decode(CheckContext& c) {
  const std::span<const int32_t> ids =
      std::span(c.ids).first(static_cast<size_t>(std::min<int64_t>(c.length(), c.large ? 4 : 80)));
  std::string figure;
  bool passed = true;
  for (Numerics numerics : kAllNumerics) {
    EvalOptions e = c.eval(numerics);
    e.compute.batch_invariant = true;
    const LogitDistance d = distance(run(c, e, ids, true).block, run(c, e, ids, false).block);
    figure +=
        fmt::format("{}{} {}", figure.empty() ? "" : "  ", name_of(numerics),
                    d.different == 0 ? "equal" : fmt::format("{}/{} differ", d.different, d.rows));
    passed = passed && d.different == 0 && d.rows > 0;
  }
  c.add("mtp.decode", fmt::format("{}, --batch-invariant", kDecodeWords), figure,
        "bit-equal logits", passed);
}

// What the model says at a position: a distribution, and the token of the greatest probability.
struct Said {
  std::vector<float> probability;
  int32_t first = 0;
};

double log_sum_exp(std::span<const float> logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float v : logits) sum += std::exp(v - top);
  return top + std::log(sum);
}

// Nats that the block needs for what the model says.
double cross_entropy(const Said& said, std::span<const float> logits) {
  double dot = 0;
  for (size_t i = 0; i < logits.size(); ++i) dot += double{said.probability[i]} * logits[i];
  return log_sum_exp(logits) - dot;
}

// Model and block over the whole sequence in one step, and the block again as often as is asked.
class BlockRuns {
 public:
  // What one run of the block guesses, of each token that it is asked for.
  struct Guesses {
    std::vector<double> nats;
    int64_t right = 0;
  };

  explicit BlockRuns(const CheckContext& c) : c_(c), rig_(make_rig(c)) {
    std::vector<int64_t> rows(c.ids.size());
    std::iota(rows.begin(), rows.end(), 0);
    // The block's row at p and the model's at p + 1 are for the same token.
    rig_.evaluator().set_mtp_sink([this](int64_t row, std::span<const float> logits) {
      if (row + 1 == c_.length()) return;  // nothing follows its last token
      const Said& said = said_[static_cast<size_t>(row) + 1];
      guesses_.nats.push_back(cross_entropy(said, logits));
      guesses_.right += greatest(logits) == said.first;
    });
    rig_.evaluator().feed(c.ids, rows, [this](int64_t, std::span<const float> logits) {
      Said& said = said_.emplace_back();
      const double sum = log_sum_exp(logits);
      for (float v : logits) said.probability.push_back(static_cast<float>(std::exp(v - sum)));
      said.first = greatest(logits);
    });
    loaded_ = std::exchange(guesses_, {});
  }
  BlockRuns(const BlockRuns&) = delete;
  BlockRuns& operator=(const BlockRuns&) = delete;

  const MtpWatch& watch() const { return *watch_; }
  const Guesses& loaded() const { return loaded_; }
  Guesses run(MtpVariant variant) {
    variants_->set(variant);
    rig_.evaluator().run_mtp_again();
    return std::exchange(guesses_, {});
  }
  // Tokens of the text that the model itself would have said.
  int64_t known() const {
    int64_t n = 0;
    for (size_t i = 0; i + 1 < said_.size(); ++i) n += said_[i].first == c_.ids[i + 1];
    return n;
  }

 private:
  // From the outside to the inside: the variants, the fault that a test injects, the watch. So a
  // variant asks even of a faulty block what difference it makes.
  Rig make_rig(const CheckContext& c) {
    EvalOptions e = c.eval(Numerics::bf16);
    e.compute.mtp = true;
    const Weights& w = c.weights_for(e);
    e.wrap = [this, &c, &w, fault = e.wrap](Ops& kernels) {
      auto watch = std::make_unique<MtpWatch>(kernels, c.config, w);
      watch_ = watch.get();
      inner_.push_back(std::move(watch));
      if (fault) inner_.push_back(fault(*inner_.back()));
      auto variants = std::make_unique<MtpVariantOps>(*inner_.back(), c.config, w,
                                                      static_cast<int>(c.length()));
      variants_ = variants.get();
      return variants;
    };
    return c.rig(e);
  }

  const CheckContext& c_;
  std::vector<std::unique_ptr<Ops>> inner_;
  MtpWatch* watch_ = nullptr;
  MtpVariantOps* variants_ = nullptr;
  std::vector<Said> said_;
  Guesses guesses_, loaded_;
  Rig rig_;
};

// The greatest error of rows [T, n] that should be x normed under `gain`, as a share of what one
// rounding of the result and float32 sums may cost.
double norm_error(const CheckContext& c, Tensor got,
                  const std::function<std::vector<float>(int64_t)>& x, const float* gain) {
  double worst = 0;
  for (int64_t t = 0; t < got.rows(); ++t) {
    const std::vector<float> from = x(t), to = row_values(got, t);
    const double n = static_cast<double>(from.size()), length = norm_of(from);
    const double scale = 1 / std::sqrt(length * length / n + c.config.norm_eps);
    for (size_t i = 0; i < from.size(); ++i) {
      const double want = from[i] * scale * gain[i];
      const double bound =
          std::abs(want) * (half_ulp(got.dtype) + sum_error(got.row_size())) + 1e-30;
      worst = std::max(worst, std::abs(to[i] - want) / bound);
    }
  }
  return worst;
}

// By the formulas of the paper (DeepSeek-V3, 2.2), with the weights of the checkpoint.
void check_input(CheckContext& c, const BlockRuns& runs) {
  const MtpWatch& seen = runs.watch();
  const MtpWeights& w = *c.weights.mtp;
  const int64_t hidden = c.config.hidden;
  if (seen.combined.memory.empty() || seen.said.memory.empty() || seen.normed.memory.empty())
    return c.add("mtp.input", kInputWords, "eh_proj or the head was not given anything", "both are",
                 false);
  const int64_t asked = c.length() - 1;  // nothing follows the last token
  auto embedding = [&](int64_t t) {
    std::vector<float> row(static_cast<size_t>(hidden));
    load_weight_row(c.weights.embed, c.ids[static_cast<size_t>(t) + 1], row.data());
    for (float& v : row) v = rounded(seen.combined.t.dtype, v);
    return row;
  };
  auto state = [&](int64_t t) { return row_values(seen.normed.t, t); };
  auto out = [&](int64_t t) { return row_values(seen.residual.t, t); };
  const Tensor combined = seen.combined.t.slice(0, asked);
  const double errors[] = {
      norm_error(c, combined.columns(0, hidden), embedding, w.embed_norm),
      norm_error(c, combined.columns(hidden, 2 * hidden), state, w.hidden_norm),
      norm_error(c, seen.said.t.slice(0, asked), out, w.head_norm)};
  c.add("mtp.input", kInputWords,
        fmt::format("embedding {:.2f}  state {:.2f}  shared_head.norm {:.2f}", errors[0], errors[1],
                    errors[2]),
        "1 x rounding", *std::max_element(std::begin(errors), std::end(errors)) <= 1);
}

void check_acceptance(CheckContext& c, const BlockRuns& runs) {
  const BlockRuns::Guesses& g = runs.loaded();
  const auto all = static_cast<double>(g.nats.size());
  const double acceptance = static_cast<double>(g.right) / all;
  c.add("mtp.acceptance", kAcceptanceWords,
        fmt::format("{} of {}: {:.2f}", g.right, g.nats.size(), acceptance),
        fmt::format("at least {}", kLeastAcceptance), acceptance >= kLeastAcceptance);
}

// How many standard errors `other` guesses better than `loaded`, over the same tokens.
double advantage(const BlockRuns::Guesses& other, const BlockRuns::Guesses& loaded) {
  const auto n = static_cast<double>(loaded.nats.size());
  double sum = 0, squares = 0;
  for (size_t i = 0; i < loaded.nats.size(); ++i) {
    const double d = loaded.nats[i] - other.nats[i];
    sum += d;
    squares += d * d;
  }
  const double mean = sum / n;
  return mean / std::sqrt(std::max(1e-300, (squares / n - mean * mean) / (n - 1)));
}

// Which of the block's tensors is wrong, if one is: a block that a mistake improves was made with
// the opposite one, and a block that it leaves as it is was made with that mistake. How good the
// model is does not matter.
void check_variants(CheckContext& c, BlockRuns& runs) {
  std::string wrong;
  double nearest = -INFINITY;
  std::string_view nearest_words;
  for (const NamedMtpVariant& v : kMtpVariants) {
    const BlockRuns::Guesses other = runs.run(v.variant);
    const bool same = other.nats == runs.loaded().nats;
    const double better = advantage(other, runs.loaded());
    if (better > nearest) std::tie(nearest, nearest_words) = std::tie(better, v.words);
    if (same || !(better <= kMostErrors))
      wrong += fmt::format("{}{}: {}", wrong.empty() ? "" : "; ", v.words,
                           same ? "no difference" : fmt::format("{:.1f} better", better));
  }
  c.add("mtp.variants", kVariantsWords,
        wrong.empty() ? fmt::format("nearest: {}, {:.1f}", nearest_words, nearest) : wrong,
        fmt::format("each differs, {} standard errors", kMostErrors), wrong.empty());
}

}  // namespace

void check_mtp(CheckContext& c) {
  if (c.weights.mtp)
    check_decode(c);
  else
    c.skip("mtp.decode", kDecodeWords, "no MTP block");
  check_mtp_norms(c);
  check_mtp_guesses(c);
}

void check_mtp_guesses(CheckContext& c) {
  auto skip = [&](const std::string& why) {
    c.skip("mtp.acceptance", kAcceptanceWords, why);
    c.skip("mtp.variants", kVariantsWords, why);
  };
  if (!c.weights.mtp) {
    c.skip("mtp.input", kInputWords, "no MTP block");
    return skip("no MTP block");
  }
  BlockRuns runs(c);
  check_input(c, runs);
  if (!c.tokenizer) return skip("no tokenizer in the folder");
  if (static_cast<double>(runs.known()) < kLeastAccuracy * static_cast<double>(c.length()))
    return skip(fmt::format("the model says {} of the text's {} tokens: random weights",
                            runs.known(), c.length()));
  check_acceptance(c, runs);
  check_variants(c, runs);
}

}  // namespace fathom
