// Checks of several ranks: they choose alike, hold equal bits, and compute what one rank computes.
#include <algorithm>

#include "selfcheck/checks.h"
#include "selfcheck/layers.h"

namespace fathom {
namespace {

// A limit on the mean KL above which it would prove nothing.
constexpr double kNothingInCommon = 0.05;

struct RankRun {
  std::vector<RankRecord> ranks;
  LogitRows logits;
};

// A prompt in two pieces, then decodes.
RankRun run_ranks(const CheckContext& c, EvalOptions e, const RankWeights& weights) {
  RankRun run;
  e.wrap = {};
  e.record_ranks = true;
  Evaluator evaluator(c.config, weights, e);
  const std::vector<int64_t> rows = c.rows();
  auto keep = [&](int64_t position, std::span<const float> logits) {
    run.logits[position].assign(logits.begin(), logits.end());
  };
  const size_t first = c.ids.size() / 2 + 5, decoded = 4;
  const std::span<const int32_t> ids(c.ids);
  evaluator.feed(ids.first(first), rows, keep);
  evaluator.feed(ids.subspan(first, ids.size() - first - decoded), rows, keep);
  evaluator.feed(ids.last(decoded), rows, keep, true);
  run.ranks = evaluator.rank_records();
  return run;
}

// Of the ranks of the first group, which has the sequence.
template <class Member>
bool alike(const RankRun& run, int group, Member member) {
  return std::all_of(run.ranks.begin(), run.ranks.begin() + group,
                     [&](const RankRecord& r) { return r.*member == run.ranks[0].*member; });
}

// Ranks add parts of a sum in another order. What that does to the logits depends on the weights,
// so it is measured.
void check_one(CheckContext& c, const LogitDistance& d) {
  const std::string proves =
      fmt::format("{} compute what one computes", c.options.compute.layout.describe());
  const LogitDistance shaken = shaken_logits(c, c.eval(Numerics::exact), c.ids, c.rows());
  const double mean = std::max(kExactMeanKl, shaken.mean_kl);
  const double most = std::max(kExactMaxKl, shaken.max_kl);
  if (mean > kNothingInCommon)
    return c.skip("ranks.one", proves,
                  fmt::format("one float32 rounding a layer moves the logits by KL {:.1e}: these "
                              "weights amplify roundings",
                              shaken.mean_kl));
  c.add("ranks.one", proves, fmt::format("KL mean {:.1e} max {:.1e}", d.mean_kl, d.max_kl),
        fmt::format("{:.0e} and {:.0e}", mean, most),
        d.rows > 0 && d.mean_kl <= mean && d.max_kl <= most);
}

}  // namespace

void check_ranks(CheckContext& c) {
  const RankLayout& layout = c.options.compute.layout;
  std::string equal[3];
  bool passed[3] = {true, true, true};
  auto note = [&](int line, Numerics n, bool same) {
    equal[line] += fmt::format("{}{} {}", equal[line].empty() ? "" : "  ", name_of(n),
                               same ? "equal" : "differ");
    passed[line] = passed[line] && same;
  };
  for (Numerics numerics : kAllNumerics) {
    EvalOptions e = c.eval(numerics);
    // A GPU's part is in its memory, exact numerics are the CPU's: as far as weights are there.
    if (e.compute.device != c.options.compute.device) continue;
    e.compute.layout = layout;
    e.compute.link = c.options.compute.link;
    const DeviceWeights weights(c.config, c.options.ranks, e.compute);
    const RankRun run = run_ranks(c, e, weights.ranks());
    note(0, numerics, alike(run, layout.tensor, &RankRecord::picked));
    note(1, numerics, alike(run, layout.tensor, &RankRecord::experts));
    note(2, numerics, alike(run, layout.tensor, &RankRecord::sums));
    if (numerics != Numerics::exact) continue;
    const RankRun one = run_ranks(c, c.eval(numerics), c.weights);
    check_one(c, distance(run.logits, one.logits));
  }
  const char* ids[] = {"ranks.picks", "ranks.experts", "ranks.sums"};
  const char* words[] = {"the indexer's picks are the same on every rank",
                         "tokens go to the same experts on every rank",
                         "every rank ends every sum with the same bits"};
  for (int i = 0; i < 3; ++i) c.add(ids[i], words[i], equal[i], "equal", passed[i]);
}

}  // namespace fathom
