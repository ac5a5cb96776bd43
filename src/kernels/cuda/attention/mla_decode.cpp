#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/error.h"
#include "kernels/cuda/attention/mla.h"
#include "kernels/cuda/attention/mla_decode_args.h"
#include "kernels/cuda/attention/mla_decode_plan.h"

namespace fathom::cuda {
namespace {

decode::Shape shape_of(int tokens, int heads, int topk, int64_t max_context, int sms,
                       bool batch_invariant) {
  return {tokens, heads, topk > 0 ? topk : max_context, sms, batch_invariant, topk == 0};
}

}  // namespace

void mla_decode(const MlaParams& p, const Launch& l) {
  if (p.tokens == 0) return;
  FATHOM_CHECK(p.tokens > 0 && p.tokens <= decode::kMaxTokens, "{} tokens", p.tokens);
  FATHOM_CHECK(p.heads > 0, "{} heads", p.heads);
  FATHOM_CHECK(p.max_context > 0 && p.max_context <= INT32_MAX - decode::kBlockKeys,
               "context of {}", p.max_context);
  FATHOM_CHECK(p.picked == nullptr || p.topk > 0, "picked positions, but top-k {}", p.topk);
  FATHOM_CHECK(p.q_rope_token_stride % 8 == 0 && p.q_rope_head_stride % 8 == 0,
               "rope strides {} and {} are not multiples of 8", p.q_rope_token_stride,
               p.q_rope_head_stride);
  const decode::Plan plan = decode::plan(
      shape_of(p.tokens, p.heads, p.picked ? p.topk : 0, p.max_context, l.sms, l.batch_invariant));
  const size_t bytes = decode::partial_bytes(plan, p.tokens, p.heads);
  FATHOM_CHECK(bytes <= l.workspace_bytes, "workspace of {} bytes, {} needed", l.workspace_bytes,
               bytes);

  decode::Args a{};
  a.p = p;
  a.splits = plan.splits;
  a.scale_log2 = p.scale * static_cast<float>(M_LOG2E);
  a.partial = static_cast<float*>(l.workspace);
  const int64_t rows = int64_t{std::min(p.tokens, plan.group_tokens)} * plan.splits * p.heads;
  a.stats = reinterpret_cast<decode::SplitStats*>(a.partial + rows * KernelDims::kLatent);
  for (int first = 0; first < p.tokens; first += plan.group_tokens) {
    const int tokens = std::min(plan.group_tokens, p.tokens - first);
    a.first_token = first;
    if (p.cache.fp8)
      decode::launch_splits_fp8(a, tokens, l);
    else
      decode::launch_splits_bf16(a, tokens, l);
    if (plan.splits > 1) decode::launch_combine(a, tokens, l);
  }
}

}  // namespace fathom::cuda
