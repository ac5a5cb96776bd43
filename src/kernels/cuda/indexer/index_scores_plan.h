// How the work of the indexer's scores is cut: plain arithmetic, the same on host and device.
//
// The unit is one page of 64 keys against one group of queries. Groups are cut from spans of
// consecutive tokens; units of all groups stand in one line, and every CTA takes an equal piece of
// it, whatever sequence borders lie inside.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/indexer/index_scores.h"
#include "numerics/cache_rows.h"
#include "numerics/host_device.h"

namespace fathom::cuda {

// Spans shorter than this are scored token by token: a group of queries would be mostly empty.
inline constexpr int kIndexPrefillTokens = 3;

// Heads a tile is padded to; padding has weight 0.
constexpr int index_padded_heads(int heads) { return heads <= 8 ? 8 : heads <= 32 ? 32 : 64; }

// Columns of one prefill accumulator, and queries of a group, which fills two. bf16 queries take
// twice the shared memory.
constexpr int index_prefill_columns(bool fp8) { return fp8 ? 128 : 64; }
constexpr int index_group_queries(bool fp8, int padded_heads) {
  return 2 * index_prefill_columns(fp8) / padded_heads;
}

// Pages that groups 0 .. k - 1 of a span read, when the span's first token stands at `position` and
// a group has `queries` tokens (a divisor of 64). Group i reads up to its last position's page, so
// the count is k + sum of floor((position + queries - 1 + i * queries) / 64). A group cut short by
// the end of its span counts as a whole one.
FATHOM_HD inline int64_t index_pages_before(int64_t position, int64_t k, int queries) {
  const int64_t m = kPageRows / queries;  // groups between one page and the next
  const int64_t base = (position + queries - 1) / queries;
  auto sum = [m](int64_t n) {  // of floor(j / m) over j < n
    const int64_t d = n / m, r = n % m;
    return m * (d * (d - 1) / 2) + r * d;
  };
  return k + sum(base + k) - sum(base);
}

// One launch of the prefill kernel, passed by value.
struct IndexPrefillPlan {
  static constexpr int kMaxSpans = 48;
  struct Span {
    int begin, end, sequence, position;  // position of token `begin`
    int64_t units_before;
  };
  Span spans[kMaxSpans];
  int count = 0;
  int64_t units = 0;
};
std::vector<IndexPrefillPlan> plan_index_prefill(std::span<const IndexSpan> spans, int queries);

// The tokens of a span that have more than `topk` candidates: the others pick all of theirs, and
// index_topk reads no scores of them. May be empty.
IndexSpan scored_part(const IndexSpan& span, int64_t topk);

// Maximal runs of neighbouring spans that go to the same kernel.
struct IndexRun {
  bool prefill;
  size_t first, last;  // spans [first, last)
};
std::vector<IndexRun> plan_index_runs(std::span<const IndexSpan> spans);

}  // namespace fathom::cuda
