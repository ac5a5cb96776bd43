// Checks of whole runs: step sizes, threads and page order must not change results; top-k must.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "selfcheck/checks.h"
#include "selfcheck/layers.h"

namespace fathom {
namespace {

std::string differing(const LogitDistance& d) {
  return fmt::format("{} of {} rows differ", d.different, d.rows);
}

std::string kl_text(const LogitDistance& d) {
  return fmt::format("KL mean {:.1e} max {:.1e}", d.mean_kl, d.max_kl);
}

// Several numerics in one line: all must be bit-equal.
struct EqualLine {
  std::string figure;
  bool passed = true;
  void add(Numerics n, int64_t different, int64_t of) {
    figure += fmt::format("{}{} {}", figure.empty() ? "" : "  ", name_of(n),
                          different == 0 ? "equal" : fmt::format("{}/{} differ", different, of));
    passed = passed && different == 0 && of > 0;
  }
};

int64_t count_different(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  int64_t n = static_cast<int64_t>(std::max(a.size(), b.size()) - std::min(a.size(), b.size()));
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) n += a[i] != b[i];
  return n;
}

struct PickedSets {
  int64_t wrong = 0, count = 0;
  bool complete = false;  // as many as tokens and layers ask for
};

// Picks come layer by layer and token by token. Each row must be ascending, hold only positions
// that the token may see, and have top-k of them (or all).
PickedSets picked_sets(const CheckContext& c, const std::vector<int32_t>& picked) {
  PickedSets s;
  for (size_t at = 0; at + static_cast<size_t>(c.topk()) <= picked.size();
       at += static_cast<size_t>(c.topk()), ++s.count) {
    int64_t position = s.count % c.length(), expected = std::min(position + 1, c.topk());
    std::span<const int32_t> row(&picked[at], static_cast<size_t>(c.topk()));
    bool good = row[0] >= 0;
    for (int64_t i = 0; i < c.topk() && good; ++i) {
      size_t k = static_cast<size_t>(i);
      good = i < expected ? row[k] <= position && (i == 0 || row[k] > row[k - 1]) : row[k] == -1;
    }
    s.wrong += !good;
  }
  s.complete = s.count == c.length() * c.config.layers;
  return s;
}

}  // namespace

void check_chunks(CheckContext& c) {
  const int n = static_cast<int>(c.length()), decoded = c.large ? 3 : 8;
  const std::vector<int64_t> rows = c.rows();
  EqualLine pieces[4], invariant;
  const std::vector<int> cuts[] = {{7}, {64}, {n / 3, 1, 2, n}, {1}};
  // The runs with many small steps are short: each step reads all weights.
  const int lengths[] = {c.large ? 24 : n, n, n, c.large ? 4 : 12};
  LayerComparison forms[2];  // decode from prefill: exact, bf16
  for (Numerics numerics : kAllNumerics) {
    // Without batch_invariant a GPU chooses tiles by the number of tokens.
    EvalOptions e = c.eval(numerics);
    e.compute.batch_invariant = e.compute.device == DeviceKind::cuda;
    Rig rig = c.rig(e);
    LogitRows whole = rig.run(c.ids, {n}, n, rows);
    for (size_t i = 0; i < 4; ++i) {
      std::span<const int32_t> ids = std::span(c.ids).first(static_cast<size_t>(lengths[i]));
      LogitDistance d = distance(rig.run(ids, cuts[i], n, rows), whole);
      pieces[i].add(numerics, d.different, d.rows);
    }
    if (numerics != Numerics::fp8) {
      // Decodes the last positions for which prefill uses the expanded form; later positions are
      // absorbed in both.
      FormPolicy policy = form_policy(c.config, AttentionMode::sparse, numerics, false);
      int64_t end = std::clamp<int64_t>(policy.expanded_below, decoded, n);
      std::vector<int64_t> last(static_cast<size_t>(decoded));
      std::iota(last.begin(), last.end(), end - decoded);
      std::span<const int32_t> ids = std::span(c.ids).first(static_cast<size_t>(end));
      forms[numerics == Numerics::bf16] =
          compare_layers(c, c.eval(numerics), c.eval(numerics), ids, end - decoded, last);
    }
    EvalOptions one_form = c.eval(numerics);
    one_form.compute.batch_invariant = true;
    Rig strict = c.rig(one_form);
    LogitRows strict_whole = strict.run(c.ids, {n}, n, rows);
    LogitDistance d = distance(strict.run(c.ids, {64}, n - decoded, rows), strict_whole);
    invariant.add(numerics, d.different, d.rows);
  }
  const auto& [exact, bf16] = forms;
  const char* names[] = {"7", "64", "uneven", "1"};
  const char* words[] = {
      "prefill in pieces of 7 = prefill at once", "prefill in pieces of 64 = prefill at once",
      "prefill in uneven pieces = prefill at once", "prefill token by token = prefill at once"};
  for (int i = 0; i < 4; ++i)
    c.add(fmt::format("chunks.{}", names[i]), words[i], pieces[i].figure, "bit-equal logits",
          pieces[i].passed);
  c.add("chunks.invariant", "decode = prefill with --batch-invariant", invariant.figure,
        "bit-equal logits", invariant.passed);
  c.add("chunks.decode_exact", "decode (absorbed form) = prefill (expanded form), exact",
        exact.figure(), LayerComparison::limit(), exact.passed());
  c.add("chunks.decode_bf16", "decode (absorbed form) = prefill (expanded form), bf16",
        bf16.figure(), LayerComparison::limit(), bf16.passed());
}

void check_sparsity(CheckContext& c) {
  const char* beyond_words = "beyond top-k sparse logits differ from dense ones";
  const char* below_words = "up to top-k sparse = dense";
  const char* subset_words = "every token picks exactly top-k of what it may see";
  if (!c.config.has_indexer()) {
    for (auto [id, words] : {std::pair{"sparsity.beyond", beyond_words},
                             {"sparsity.below", below_words},
                             {"sparsity.subset", subset_words}})
      c.skip(id, words, "not applicable: no indexer");
    return;
  }
  const int n = static_cast<int>(c.length());
  std::vector<int64_t> rows(c.ids.size());
  std::iota(rows.begin(), rows.end(), 0);
  if (c.large) rows = c.rows();
  EvalOptions e = c.eval(Numerics::exact);
  Rig sparse_rig = c.rig(e);
  LogitRows sparse = sparse_rig.run(c.ids, {n}, n, rows);
  e.compute.attention = AttentionMode::dense;
  LogitRows dense = c.rig(e).run(c.ids, {n}, n, rows);

  auto border = sparse.lower_bound(c.topk());
  LogitDistance beyond = distance(LogitRows(border, sparse.end()), dense);
  std::vector<int64_t> below_rows;
  for (auto row = sparse.begin(); row != border; ++row) below_rows.push_back(row->first);
  const LayerComparison below = compare_layers(c, c.eval(Numerics::exact), e, c.ids, n, below_rows);
  c.add("sparsity.below", below_words, below.figure(), LayerComparison::limit(), below.passed());
  // A dropped position may carry no weight at all in some rows, but not in most.
  c.add("sparsity.beyond", beyond_words, fmt::format("{}, {}", differing(beyond), kl_text(beyond)),
        "more than half differ", beyond.rows > 0 && 2 * beyond.different > beyond.rows);

  PickedSets sets = picked_sets(c, sparse_rig.record().picked);
  if (c.options.compute.device == DeviceKind::cuda)
    for (Numerics numerics : {Numerics::bf16, Numerics::fp8}) {
      Rig rig = c.rig(c.eval(numerics));
      rig.run(c.ids, {n}, n, {});
      PickedSets more = picked_sets(c, rig.record().picked);
      sets = {sets.wrong + more.wrong, sets.count + more.count, sets.complete && more.complete};
    }
  c.add("sparsity.subset", subset_words, fmt::format("{} of {} sets wrong", sets.wrong, sets.count),
        "0", sets.wrong == 0 && sets.complete);
}

void check_repeat(CheckContext& c) {
  const int n = static_cast<int>(c.length());
  const std::vector<int64_t> rows = c.rows();
  struct Line {
    EqualLine logits, sets, experts;
  } again, alone;
  for (Numerics numerics : kAllNumerics) {
    Rig rig = c.rig(c.eval(numerics));
    LogitRows first = rig.run(c.ids, {n}, n - 4, rows);
    std::vector<int32_t> picked = rig.record().picked, experts = rig.record().experts;
    auto compare = [&](Line& line, Rig& other) {
      LogitDistance d = distance(other.run(c.ids, {n}, n - 4, rows), first);
      line.logits.add(numerics, d.different, d.rows);
      line.sets.add(numerics, count_different(picked, other.record().picked), 1);
      line.experts.add(numerics, count_different(experts, other.record().experts), 1);
    };
    compare(again, rig);
    // Another number of threads than the runs above had.
    EvalOptions e = c.eval(numerics);
    e.compute.threads = e.compute.threads == 1 || usable_processors() == 1 ? 3 : 1;
    Rig other = c.rig(e);
    compare(alone, other);
  }
  auto add = [&](const char* id, const char* words, const Line& line) {
    bool passed = line.logits.passed && line.sets.passed && line.experts.passed;
    std::string figure = line.logits.figure;
    if (!line.sets.passed) figure += "; picked sets differ";
    if (!line.experts.passed) figure += "; experts differ";
    c.add(fmt::format("repeat.{}", id), words, figure, "bit-equal", passed);
  };
  add("rerun", "a second run: logits, picked sets, experts", again);
  add("threads", "another number of threads: logits, picked sets, experts", alone);
}

void check_cache(CheckContext& c) {
  const int n = static_cast<int>(c.length());
  const std::vector<int64_t> rows = c.rows();
  EqualLine pages;
  Record fp8;
  for (Numerics numerics : kAllNumerics) {
    EvalOptions e = c.eval(numerics);
    Rig ordered = c.rig(e);
    LogitRows want = ordered.run(c.ids, {n}, n - 4, rows);
    if (numerics == Numerics::fp8) fp8 = ordered.record();
    // Pages in reverse order: no two neighbours of the sequence are neighbours in memory.
    e.pages.resize(static_cast<size_t>(pages_for(c.length())));
    std::iota(e.pages.rbegin(), e.pages.rend(), 0);
    Rig scattered = c.rig(e);
    LogitDistance d = distance(scattered.run(c.ids, {n}, n - 4, rows), want);
    pages.add(numerics, d.different, d.rows);
  }
  c.add("cache.requantise", "fp8 rows read and quantised again keep their values",
        fmt::format("{} of {} rows changed", fp8.changed_rows, fp8.latent_rows + fp8.index_rows),
        "0", fp8.changed_rows == 0 && fp8.latent_rows > 0);
  c.add("cache.pages", "pages scattered in memory = pages in order", pages.figure,
        "bit-equal logits", pages.passed);
}

void check_finite(CheckContext& c) {
  const int n = static_cast<int>(c.length());
  int64_t wrong = 0, count = 0;
  for (Numerics numerics : kAllNumerics)
    for (const auto& [row, logits] : c.rig(c.eval(numerics)).run(c.ids, {n}, n - 4, c.rows()))
      for (float v : logits) wrong += !std::isfinite(v), ++count;
  c.add("finite.logits", "no logit is infinite or not a number",
        fmt::format("{} of {} are not", wrong, count), "0", wrong == 0 && count > 0);
}

}  // namespace fathom
