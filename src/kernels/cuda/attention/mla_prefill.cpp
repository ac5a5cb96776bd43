#include "kernels/cuda/attention/mla_prefill.h"

#include <cmath>
#include <numbers>

#include "base/error.h"
#include "kernels/cuda/attention/mla_prefill_plan.h"
#include "kernels/cuda/attention/mla_prefill_rows.h"

namespace fathom::cuda {
namespace {

void check(const MlaParams& p) {
  if (p.heads < 1 || p.tokens < 0 || (p.picked && p.topk < 1))
    fail("mla_prefill: {} tokens, {} heads, topk {}", p.tokens, p.heads, p.topk);
  if (!(p.scale > 0)) fail("mla_prefill: softmax scale {} is not positive", p.scale);
  if (p.q_rope_token_stride % 8 != 0 || p.q_rope_head_stride % 8 != 0)
    fail("mla_prefill: query strides {} and {} are not multiples of 8", p.q_rope_token_stride,
         p.q_rope_head_stride);
  if (int64_t{p.tokens} * ((p.heads + 63) / 64) > INT32_MAX)
    fail("mla_prefill: {} tokens of {} heads exceed one launch", p.tokens, p.heads);
}

// The same attention for tokens [begin, end) alone.
MlaParams part_of(const MlaParams& p, int begin, int end) {
  MlaParams part = p;
  part.tokens = end - begin;
  part.q_latent += int64_t{begin} * p.heads * KernelDims::kLatent;
  part.q_rope += begin * p.q_rope_token_stride;
  part.cache.sequence_of += begin;
  part.cache.positions += begin;
  if (p.picked) part.picked += int64_t{begin} * p.topk;
  part.out += int64_t{begin} * p.heads * KernelDims::kLatent;
  return part;
}

prefill::PrefillArgs args_of(const MlaParams& p) {
  prefill::PrefillArgs a{};
  a.q_latent = p.q_latent;
  a.q_rope = p.q_rope;
  a.q_rope_token_stride = p.q_rope_token_stride;
  a.q_rope_head_stride = p.q_rope_head_stride;
  a.rows = p.cache.rows;
  a.page_tables = p.cache.page_tables;
  a.max_pages = p.cache.max_pages;
  a.sequence_of = p.cache.sequence_of;
  a.positions = p.cache.positions;
  a.picked = p.picked;
  a.topk = p.topk;
  a.heads = p.heads;
  a.scale_log2 = p.scale * std::numbers::log2e_v<float>;
  a.out = p.out;
  return a;
}

// Rows of the spans of one pass into the workspace, then attention over them.
void dequantised(const MlaParams& part, std::span<const PrefillSpan> spans, const Launch& l) {
  prefill::DequantiseArgs rows{};
  prefill::PrefillArgs a = args_of(part);
  rows.rows = part.cache.rows;
  rows.page_tables = part.cache.page_tables;
  rows.max_pages = part.cache.max_pages;
  rows.out = static_cast<std::byte*>(l.workspace);
  rows.count = a.spans.count = static_cast<int>(spans.size());
  for (size_t i = 0; i < spans.size(); ++i) {
    rows.sequence[i] = spans[i].sequence;
    rows.context[i] = static_cast<int>(spans[i].context);
    rows.base[i + 1] = rows.base[i] + prefill::span_rows(spans[i]);
    a.spans.token[i] = spans[i].begin - spans[0].begin;
    a.spans.base[i] = rows.base[i];
  }
  a.spans.token[spans.size()] = part.tokens;
  prefill::launch_dequantise(rows, l);
  a.rows = rows.out;
  a.page_tables = nullptr;
  prefill::launch_prefill(a, part.tokens, l);
}

}  // namespace

void mla_prefill(const MlaParams& p, std::span<const PrefillSpan> spans, const Launch& l) {
  check(p);
  prefill::PlanLimits limits;
  limits.fp8 = p.cache.fp8;
  limits.may_decode = !l.batch_invariant;
  limits.workspace_rows = static_cast<int64_t>(l.workspace_bytes) / prefill::kRowBytes;
  limits.max_spans = prefill::kMaxSpans;
  limits.head_tiles = (p.heads + 63) / 64;
  limits.topk = p.picked ? p.topk : INT32_MAX;
  limits.sms = l.sms;
  for (const PrefillSpan& s : spans)
    if (s.begin < 0 || s.end <= s.begin || s.end > p.tokens || s.context < s.end - s.begin)
      fail("mla_prefill: span of tokens {}..{} at context {} in a batch of {}", s.begin, s.end,
           s.context, p.tokens);
  for (size_t first = 0; first < spans.size();) {
    prefill::Pass pass = prefill::next_pass(spans, first, limits);
    if (pass.rows < 0)
      fail("mla_prefill: a context of {} needs {} bytes of workspace, there are {}",
           spans[first].context, mla_prefill_workspace(spans[first].context, true),
           l.workspace_bytes);
    std::span<const PrefillSpan> taken = spans.subspan(first, pass.last - first);
    MlaParams part = part_of(p, taken.front().begin, taken.back().end);
    if (pass.decode)
      mla_decode(part, l);
    else if (p.cache.fp8)
      dequantised(part, taken, l);
    else
      prefill::launch_prefill(args_of(part), part.tokens, l);
    first = pass.last;
  }
}

void mla_prefill(const MlaParams& p, const Launch& l) {
  check(p);
  if (p.cache.fp8) fail("mla_prefill: an fp8 cache needs the spans of the batch");
  if (p.tokens > 0) prefill::launch_prefill(args_of(p), p.tokens, l);
}

}  // namespace fathom::cuda
