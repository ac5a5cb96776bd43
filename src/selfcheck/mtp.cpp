// The MTP block guesses the same tokens in decode as in prefill, and guesses well.
#include <algorithm>
#include <numeric>

#include "selfcheck/checks.h"

namespace fathom {
namespace {

// Of the tokens that the model itself would say next, the share that the block guesses one token
// ahead. The bundled model's block guesses 0.50 of this text; with embedding and state swapped
// 0.00, with the embedding's norm left out 0.14. The state in front of the model's last norm costs
// that block little, as its gains are even: 0.44. That one the golden MTP logits tell.
constexpr double kLeastAcceptance = 0.3;
// A model that hardly ever says the text's own next token was not trained on language, and its
// block cannot guess either: weights made at random.
constexpr double kLeastAccuracy = 0.1;

int32_t greatest(const std::vector<float>& row) {
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
  c.add("mtp.decode", "the MTP block's guesses when decoding = in a prompt, --batch-invariant",
        figure, "bit-equal logits", passed);
}

void check_acceptance(CheckContext& c) {
  const char* words = "the MTP block guesses what the model says next";
  if (!c.tokenizer) return c.skip("mtp.acceptance", words, "no tokenizer in the folder");
  const BothRows rows = run(c, c.eval(Numerics::bf16), c.ids, false);
  int64_t known = 0, guessed = 0, all = 0;
  for (const auto& [row, logits] : rows.block) {
    const int32_t said = greatest(rows.model.at(row + 1));
    guessed += greatest(logits) == said;
    const auto next = static_cast<size_t>(row) + 2;
    known += next < c.ids.size() && c.ids[next] == said;
    ++all;
  }
  const double n = static_cast<double>(std::max<int64_t>(1, all));
  if (static_cast<double>(known) / n < kLeastAccuracy)
    return c.skip(
        "mtp.acceptance", words,
        fmt::format("the model says {} of the text's {} tokens: random weights", known, all));
  const double acceptance = static_cast<double>(guessed) / n;
  c.add("mtp.acceptance", words, fmt::format("{} of {}: {:.2f}", guessed, all, acceptance),
        fmt::format("at least {}", kLeastAcceptance), acceptance >= kLeastAcceptance);
}

}  // namespace

void check_mtp(CheckContext& c) {
  if (!c.weights.mtp) {
    c.skip("mtp.decode", "the MTP block's guesses when decoding = in a prompt", "no MTP block");
    c.skip("mtp.acceptance", "the MTP block guesses what the model says next", "no MTP block");
    return;
  }
  check_decode(c);
  check_acceptance(c);
}

}  // namespace fathom
