// Host side of the indexer's scores: checks, tensor maps, choice of the kernel.
#include "kernels/cuda/indexer/index_scores.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "kernels/cuda/indexer/index_scores_plan.h"
#include "kernels/cuda/indexer/index_scores_shape.h"
#include "kernels/cuda/prim/tma.h"

namespace fathom::cuda {
namespace {

constexpr int kDim = KernelDims::kIndex;

void check_params(const IndexScoresParams& p) {
  if (p.index_heads < 1 || p.index_heads > 64)
    fail("index scores: {} heads, the kernels take 1 to 64", p.index_heads);
  if (p.max_context < 1 || p.max_context > int64_t{p.max_pages} * kPageRows)
    fail("index scores: a context of {} does not fit {} pages", p.max_context, p.max_pages);
  if (p.stride < p.max_context)
    fail("index scores: rows of {} floats cannot hold {} positions", p.stride, p.max_context);
  if (p.page_count < 1 || p.page_count > std::numeric_limits<int32_t>::max())
    fail("index scores: {} pages in the cache", p.page_count);
  // Units of work are counted in 32 bits on the device.
  if (int64_t{p.tokens} * p.max_pages > std::numeric_limits<int32_t>::max())
    fail("index scores: {} tokens of {} pages each are too many for one launch", p.tokens,
         p.max_pages);
}

// One box is a whole fp8 page: the 64 scales behind its 64 rows of codes make two more rows. A
// bf16 page takes two boxes of 64 columns.
CUtensorMap key_map(const IndexScoresParams& p) {
  MapShape s;
  s.base = p.pages;
  s.type = p.fp8 ? MapType::u8 : MapType::bf16;
  s.rank = 3;
  const uint64_t rows = p.fp8 ? kPageRows + 2 : kPageRows;
  const uint64_t row_bytes = p.fp8 ? kDim : 2 * kDim;
  s.dims[0] = kDim;
  s.dims[1] = rows;
  s.dims[2] = static_cast<uint64_t>(p.page_count);
  s.strides[0] = row_bytes;
  s.strides[1] = row_bytes * rows;
  s.box[0] = p.fp8 ? 128 : 64;
  s.box[1] = static_cast<uint32_t>(rows);
  return make_tensor_map(s);
}

// A box of `queries` tokens. Heads are padded with the zeros that the copy engine gives outside the
// tensor.
CUtensorMap query_map(const IndexScoresParams& p, int padded_heads, int queries) {
  MapShape s;
  s.base = p.q;
  s.type = p.fp8 ? MapType::u8 : MapType::bf16;
  s.rank = 3;
  const uint64_t row_bytes = p.fp8 ? kDim : 2 * kDim;
  s.dims[0] = kDim;
  s.dims[1] = static_cast<uint64_t>(p.index_heads);
  s.dims[2] = static_cast<uint64_t>(p.tokens);
  s.strides[0] = row_bytes;
  s.strides[1] = row_bytes * static_cast<uint64_t>(p.index_heads);
  s.box[0] = p.fp8 ? 128 : 64;
  s.box[1] = static_cast<uint32_t>(padded_heads);
  s.box[2] = static_cast<uint32_t>(queries);
  return make_tensor_map(s);
}

IndexArgs args_of(const IndexScoresParams& p) {
  IndexArgs a{};
  a.head_weight = p.head_weight;
  a.heads = p.index_heads;
  a.tokens = p.tokens;
  a.page_tables = p.page_tables;
  a.max_pages = p.max_pages;
  a.sequence_of = p.sequence_of;
  a.positions = p.positions;
  a.scores = p.scores;
  a.stride = p.stride;
  return a;
}

int grid_of(int64_t units, const Launch& l) {
  return static_cast<int>(std::min<int64_t>(units, l.sms));
}

}  // namespace

void index_scores_decode(const IndexScoresParams& p, int begin, int end, const Launch& l,
                         bool pairs) {
  if (begin < 0 || end > p.tokens || begin > end)
    fail("index scores: tokens {} to {} of {}", begin, end, p.tokens);
  if (begin == end) return;
  check_params(p);
  const int heads = index_padded_heads(p.index_heads);
  IndexArgs args = args_of(p);
  args.begin = begin;
  args.end = end;
  const int64_t most = (end - begin) * ((p.max_context + kPageRows - 1) / kPageRows);
  launch_index_decode(args, p.fp8, heads, pairs, grid_of(most, l), key_map(p),
                      query_map(p, heads, pairs ? 2 : 1), l);
}

void index_scores_prefill(const IndexScoresParams& p, std::span<const IndexSpan> spans,
                          const Launch& l) {
  for (const IndexSpan& s : spans)
    if (s.begin < 0 || s.end > p.tokens || s.begin > s.end || s.context < s.end - s.begin ||
        s.context > p.max_context || s.sequence < 0)
      fail("index scores: span {} to {} of {} tokens, context {} of at most {}", s.begin, s.end,
           p.tokens, s.context, p.max_context);
  const int heads = index_padded_heads(p.index_heads);
  const int queries = index_group_queries(p.fp8, heads);
  const std::vector<IndexPrefillPlan> plans = plan_index_prefill(spans, queries);
  if (plans.empty()) return;
  check_params(p);
  const IndexArgs args = args_of(p);
  const CUtensorMap keys = key_map(p), q = query_map(p, heads, queries);
  for (const IndexPrefillPlan& plan : plans)
    launch_index_prefill(args, plan, p.fp8, heads, grid_of(plan.units, l), keys, q, l);
}

void index_scores(const IndexScoresParams& p, std::span<const IndexSpan> spans, const Launch& l) {
  for (const IndexRun& run : plan_index_runs(spans)) {
    const std::span<const IndexSpan> part = spans.subspan(run.first, run.last - run.first);
    if (run.prefill)
      index_scores_prefill(p, part, l);
    else
      index_scores_decode(p, part.front().begin, part.back().end, l,
                          std::any_of(part.begin(), part.end(),
                                      [](const IndexSpan& s) { return s.end - s.begin > 1; }));
  }
}

}  // namespace fathom::cuda
