#include "kernels/cuda/attention/mha.h"

#include <algorithm>
#include <numbers>

#include "base/error.h"
#include "kernels/cuda/attention/mha_args.h"
#include "kernels/cuda/attention/mha_plan.h"
#include "kernels/cuda/attention/mla_prefill_rows.h"
#include "kernels/cuda/gemm/bf16_gemm.h"

namespace fathom::cuda {
namespace {

constexpr int kLatent = KernelDims::kLatent, kRope = KernelDims::kRope;
constexpr int kNope = KernelDims::kNope, kValue = KernelDims::kValue;
constexpr int kRowWidth = kLatent + kRope;
static_assert(kNope == kValue);

void check(const MhaParams& p) {
  if (p.heads < 1 || p.tokens < 0 || (p.picked && p.topk < 1))
    fail("mha_prefill: {} tokens, {} heads, topk {}", p.tokens, p.heads, p.topk);
  if (!(p.scale > 0)) fail("mha_prefill: softmax scale {} is not positive", p.scale);
  if (p.q_token_stride % 8 != 0 || p.q_head_stride % 8 != 0 || p.out_token_stride % 8 != 0)
    fail("mha_prefill: strides {}, {}, {} are not multiples of 8", p.q_token_stride,
         p.q_head_stride, p.out_token_stride);
}

// The span's latent rows as contiguous bf16.
void gather_rows(const MhaParams& p, const PrefillSpan& span, std::byte* to, const Launch& l) {
  if (p.cache.fp8) {
    prefill::DequantiseArgs a{};
    a.rows = p.cache.rows;
    a.page_tables = p.cache.page_tables;
    a.max_pages = p.cache.max_pages;
    a.out = to;
    a.count = 1;
    a.base[1] = prefill::span_rows(span);
    a.sequence[0] = span.sequence;
    a.context[0] = static_cast<int>(span.context);
    prefill::launch_dequantise(a, l);
  } else {
    const int32_t* table = p.cache.page_tables + int64_t{span.sequence} * p.cache.max_pages;
    mha::launch_gather({p.cache.rows, table, to, span.context}, l);
  }
}

// Keys or values of heads [head, head + count): [context, count * 128].
void expand(const Bf16* latent, int64_t context, const Bf16* weights, int count, Bf16* out,
            const Launch& l) {
  Bf16GemmParams g;
  g.a = latent;
  g.a_stride = kRowWidth;
  g.rows = static_cast<int>(context);
  g.b = weights;
  g.n = count * kNope;
  g.k = kLatent;
  g.out[0] = {out, int64_t{count} * kNope, 0, count * kNope, false};
  bf16_gemm(g, l);
}

CUtensorMap query_map(const MhaParams& p, const PrefillSpan& span, int head, int count) {
  MapShape s;
  s.base = p.q + span.begin * p.q_token_stride + head * p.q_head_stride;
  s.type = MapType::bf16;
  s.rank = 3;
  s.dims[0] = kNope + kRope;
  s.dims[1] = static_cast<uint64_t>(count);
  s.dims[2] = static_cast<uint64_t>(span.end - span.begin);
  s.strides[0] = static_cast<uint64_t>(p.q_head_stride) * 2;
  s.strides[1] = static_cast<uint64_t>(p.q_token_stride) * 2;
  s.box[0] = 64;
  s.box[2] = mha::kQueryRows;
  return make_tensor_map(s);
}

void attend_span(const MhaParams& p, const PrefillSpan& span, const Launch& l) {
  const int tokens = span.end - span.begin;
  const int64_t context = span.context;
  // Up to topk positions every token has picked all of them.
  const bool masked = p.picked && context > p.topk;
  const mha::WorkspacePlan plan =
      mha::fit_workspace(tokens, context, masked, p.heads, l.workspace_bytes);
  if (plan.group == 0)
    fail("mha_prefill: {} tokens at a context of {} need {} bytes of workspace, there are {}",
         tokens, context, mha::workspace_plan(tokens, context, masked, 1).bytes, l.workspace_bytes);
  std::byte* work = static_cast<std::byte*>(l.workspace);
  Bf16* latent = reinterpret_cast<Bf16*>(work + plan.latent);
  Bf16* weights = reinterpret_cast<Bf16*>(work + plan.weights);
  Bf16* keys = reinterpret_cast<Bf16*>(work + plan.keys);
  Bf16* values = reinterpret_cast<Bf16*>(work + plan.values);
  Launch inner = l;  // the products get no scratch: it is all in use
  inner.workspace = nullptr;
  inner.workspace_bytes = 0;

  gather_rows(p, span, work + plan.latent, inner);
  mha::AttendArgs a{};
  if (masked) {
    uint32_t* mask = reinterpret_cast<uint32_t*>(work + plan.mask);
    mha::launch_mask(
        {p.picked + int64_t{span.begin} * p.topk, p.topk, tokens, mask, plan.mask_words}, inner);
    a.mask = mask;
    a.mask_words = plan.mask_words;
  }
  a.tokens = tokens;
  a.first_position = static_cast<int>(context - tokens);
  a.scale_log2 = p.scale * std::numbers::log2e_v<float>;
  a.out_token_stride = p.out_token_stride;
  const auto rows = static_cast<uint64_t>(context);
  a.rope = make_matrix_map(latent + kLatent, MapType::bf16, rows, kRope, kRowWidth * 2,
                           mha::kKeyRows, 64);
  for (int head = 0; head < p.heads; head += plan.group) {
    const int count = std::min(plan.group, p.heads - head);
    const auto width = static_cast<uint64_t>(count) * kNope;
    mha::launch_transpose(
        {p.absorb + int64_t{head} * kLatent * kNope, weights, count, kLatent, kNope}, inner);
    // With dependent launch a product fetches its weights before its predecessor ends. These
    // weights are written by the predecessor (the transpose), so this launch must wait for it.
    Launch after = inner;
    after.pdl = false;
    expand(latent, context, weights, count, keys, after);
    expand(latent, context, p.value_up + int64_t{head} * kValue * kLatent, count, values, inner);
    a.query = query_map(p, span, head, count);
    a.keys = make_matrix_map(keys, MapType::bf16, rows, width, width * 2, mha::kKeyRows, 64);
    a.values = make_matrix_map(values, MapType::bf16, rows, width, width * 2, mha::kKeyRows, 64);
    a.heads = count;
    a.out = p.out + span.begin * p.out_token_stride + head * kValue;
    mha::launch_attend(a, inner);
  }
}

}  // namespace

void mha_prefill(const MhaParams& p, std::span<const PrefillSpan> spans, const Launch& l) {
  check(p);
  for (const PrefillSpan& s : spans) {
    if (s.begin < 0 || s.end <= s.begin || s.end > p.tokens || s.context < s.end - s.begin ||
        s.context > INT32_MAX / 2)
      fail("mha_prefill: span of tokens {}..{} at context {} in a batch of {}", s.begin, s.end,
           s.context, p.tokens);
    attend_span(p, s, l);
  }
}

}  // namespace fathom::cuda
