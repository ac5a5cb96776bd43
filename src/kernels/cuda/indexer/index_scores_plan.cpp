#include "kernels/cuda/indexer/index_scores_plan.h"

#include <algorithm>

namespace fathom::cuda {

std::vector<IndexPrefillPlan> plan_index_prefill(std::span<const IndexSpan> spans, int queries) {
  std::vector<IndexPrefillPlan> plans;
  for (const IndexSpan& span : spans) {
    if (span.begin == span.end) continue;
    if (plans.empty() || plans.back().count == IndexPrefillPlan::kMaxSpans) plans.emplace_back();
    IndexPrefillPlan& plan = plans.back();
    const int64_t position = span.context - (span.end - span.begin);
    const int64_t groups = (span.end - span.begin + queries - 1) / queries;
    plan.spans[plan.count++] = {span.begin, span.end, span.sequence, static_cast<int>(position),
                                plan.units};
    plan.units += index_pages_before(position, groups, queries);
  }
  return plans;
}

IndexSpan scored_part(const IndexSpan& span, int64_t topk) {
  // A token has one candidate fewer than the one after it.
  const int64_t scored = std::clamp<int64_t>(span.context - topk, 0, span.end - span.begin);
  IndexSpan part = span;
  part.begin = span.end - static_cast<int>(scored);
  return part;
}

std::vector<IndexRun> plan_index_runs(std::span<const IndexSpan> spans) {
  std::vector<IndexRun> runs;
  for (size_t i = 0; i < spans.size(); ++i) {
    const bool prefill = spans[i].end - spans[i].begin >= kIndexPrefillTokens;
    // The decode kernel takes one range of tokens, so a gap between spans ends a run.
    const bool joined = !runs.empty() && runs.back().prefill == prefill &&
                        (prefill || spans[i - 1].end == spans[i].begin);
    if (joined)
      runs.back().last = i + 1;
    else
      runs.push_back({prefill, i, i + 1});
  }
  return runs;
}

}  // namespace fathom::cuda
