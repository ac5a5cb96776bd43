// Check 1: every op of the kernels in use against the reference, inside a real run.
#include <cmath>

#include "selfcheck/checks.h"

namespace fathom {
namespace {

struct OpLine {
  OpKind kind;
  std::string_view words;
  bool indexer = false, experts = false;
};

constexpr OpLine kLines[] = {
    {OpKind::embed, "token embeddings"},
    {OpKind::rms_norm, "RMS norm"},
    {OpKind::add_rms_norm, "residual sum and RMS norm"},
    {OpKind::project, "linear layers"},
    {OpKind::rope_query, "rotation of attention queries"},
    {OpKind::append_latent, "latent cache rows"},
    {OpKind::append_index_key, "indexer key rows", true},
    {OpKind::index_query, "indexer queries and head weights", true},
    {OpKind::index_scores, "indexer scores", true},
    {OpKind::index_topk, "picks are the best of the kernels' own scores", true},
    {OpKind::attend_expanded, "attention, expanded form (prefill)"},
    {OpKind::attend_absorbed, "attention, absorbed form (decode)"},
    {OpKind::route, "expert choice and weights", false, true},
    {OpKind::mlp, "dense feed-forward layers"},
    {OpKind::moe, "experts", false, true},
    {OpKind::gather_rows, "rows taken for the head"},
    {OpKind::logits, "output head"},
};
static_assert(std::size(kLines) == kOpKinds);

// An op that did not run has no figure: fp8 runs have no expanded form, and a model may have no
// experts.
std::string share(const OpTally& t) { return t.values ? fmt::format("{:.2f}", t.ratio()) : "-"; }

// Compares a few tokens at the beginning, on both sides of the top-k, and at the end, where the
// last two are decoded.
CompareLimits limits_of(const CheckContext& c) {
  CompareLimits l;
  for (int64_t p = 0; p < 8; ++p) l.positions.insert(p);
  for (int64_t p = std::max<int64_t>(c.topk() - 2, 0); p < c.topk() + 4; ++p) l.positions.insert(p);
  for (int64_t p = c.length() - 4; p < c.length(); ++p) l.positions.insert(p);
  if (!c.large) return l;
  l.layers = {0, c.config.layers - 1, std::min(c.config.dense_layers, c.config.layers - 1)};
  l.heavy_tokens = 1;
  l.weight_budget = 1 << 21;
  return l;
}

}  // namespace

void check_kernels(CheckContext& c) {
  OpTally tallies[kOpKinds][std::size(kAllNumerics)];
  constexpr int kChunk = 96;
  std::vector<int64_t> rows{0, c.length() - 1};
  for (size_t n = 0; n < std::size(kAllNumerics); ++n) {
    EvalOptions e = c.eval(kAllNumerics[n]);
    e.compute.step_tokens = kChunk;
    CompareLimits limits = limits_of(c);
    limits.tensor_cores = e.compute.device == DeviceKind::cuda;
    Rig rig(c.config, c.weights_for(e), {e, std::move(limits)});
    rig.run(c.ids, {kChunk}, c.length() - 2, rows);
    for (const OpLine& line : kLines)
      tallies[static_cast<size_t>(line.kind)][n] = rig.compare()->tally(line.kind);
  }
  for (const OpLine& line : kLines) {
    std::string id = fmt::format("kernels.{}", name_of(line.kind)), words(line.words);
    const OpTally* t = tallies[static_cast<size_t>(line.kind)];
    double worst = std::max({t[0].ratio(), t[1].ratio(), t[2].ratio()});
    if (line.indexer && !c.config.has_indexer()) {
      c.skip(id, words, "not applicable: no indexer");
    } else if (t[0].values + t[1].values + t[2].values == 0) {
      c.skip(id, words, "not used by this model");
    } else {
      c.add(id, words,
            fmt::format("exact {}  bf16 {}  fp8 {}", share(t[0]), share(t[1]), share(t[2])),
            "1 x bound", worst <= 1);
    }
  }
}

}  // namespace fathom
