// Checks of several ranks: they choose alike, hold equal bits, and compute what one rank computes.
#include "selfcheck/checks.h"

namespace fathom {
namespace {

// What a rank chose, and the residual stream after each sum over the ranks, in order.
struct RankRecord {
  std::vector<int32_t> picked, experts;
  std::vector<std::byte> sums;
};

class RankTap final : public TraceOps {
 public:
  RankTap(Ops& inner, RankRecord& record) : TraceOps(inner), record_(record) {}

 private:
  void after(OpKind kind, std::span<const Tensor> results) override {
    if (kind == OpKind::index_topk) append(record_.picked, results[0]);
    if (kind == OpKind::route) append(record_.experts, results[0]);
    if (kind != OpKind::add_rms_norm) return;
    const Tensor& residual = results[1];
    const size_t bytes = static_cast<size_t>(residual.row_size()) * size_of(residual.dtype);
    for (int64_t t = 0; t < residual.rows(); ++t) {
      const auto* row = static_cast<const std::byte*>(residual.data) +
                        static_cast<size_t>(t * residual.row_stride) * size_of(residual.dtype);
      record_.sums.insert(record_.sums.end(), row, row + bytes);
    }
  }
  static void append(std::vector<int32_t>& to, const Tensor& ids) {
    for (int64_t t = 0; t < ids.rows(); ++t)
      to.insert(to.end(), ids.row<int32_t>(t), ids.row<int32_t>(t) + ids.row_size());
  }
  RankRecord& record_;
};

struct RankRun {
  std::vector<RankRecord> ranks;
  LogitRows logits;
};

// A prompt in two pieces, then decodes.
RankRun run_ranks(const CheckContext& c, EvalOptions e, const RankWeights& weights) {
  RankRun run;
  run.ranks.resize(static_cast<size_t>(e.compute.layout.ranks()));
  e.wrap = [&](Ops& ops) { return std::make_unique<RankTap>(ops, run.ranks[0]); };
  e.wrap_others = [&](Ops& ops, int rank) {
    return std::make_unique<RankTap>(ops, run.ranks[static_cast<size_t>(rank)]);
  };
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
  return run;
}

template <class Member>
bool alike(const RankRun& run, Member member) {
  return std::all_of(run.ranks.begin(), run.ranks.end(),
                     [&](const RankRecord& r) { return r.*member == run.ranks[0].*member; });
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
    const DeviceWeights weights(c.config, c.options.ranks, e.compute);
    const RankRun run = run_ranks(c, e, weights.ranks());
    note(0, numerics, alike(run, &RankRecord::picked));
    note(1, numerics, alike(run, &RankRecord::experts));
    note(2, numerics, alike(run, &RankRecord::sums));
    if (numerics != Numerics::exact) continue;
    const RankRun one = run_ranks(c, c.eval(numerics), c.weights);
    const LogitDistance d = distance(run.logits, one.logits);
    c.add("ranks.one", fmt::format("{} ranks compute what one computes", layout.ranks()),
          fmt::format("KL mean {:.1e} max {:.1e}", d.mean_kl, d.max_kl),
          fmt::format("{:.0e} and {:.0e}", kExactMeanKl, kExactMaxKl),
          d.rows > 0 && d.mean_kl <= kExactMeanKl && d.max_kl <= kExactMaxKl);
  }
  const char* ids[] = {"ranks.picks", "ranks.experts", "ranks.sums"};
  const char* words[] = {"the indexer's picks are the same on every rank",
                         "tokens go to the same experts on every rank",
                         "every rank ends every sum with the same bits"};
  for (int i = 0; i < 3; ++i) c.add(ids[i], words[i], equal[i], "equal", passed[i]);
}

}  // namespace fathom
