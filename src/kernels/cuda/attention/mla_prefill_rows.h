// What the prefill kernel is launched with, and where it finds the latent row of a position.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention/mla_prefill.h"
#include "numerics/cache_rows.h"

namespace fathom::cuda::prefill {

constexpr int64_t kRowBytes = kPrefillRowBytes;
constexpr int kMaxSpans = 64;  // of one launch: their table travels with the arguments

// Tokens [token[i], token[i + 1]) of the launch find position 0 of their sequence at row base[i] of
// a workspace of contiguous rows.
struct SpanTable {
  int count = 0;
  int token[kMaxSpans + 1] = {};
  int64_t base[kMaxSpans] = {};
};

inline int64_t span_rows(const PrefillSpan& span) {  // whole pages
  return (span.context + kPageRows - 1) / kPageRows * kPageRows;
}

struct PrefillArgs {
  const Bf16* q_latent;  // [tokens, heads, 512]
  const Bf16* q_rope;    // [tokens, heads, 64], strides in elements
  int64_t q_rope_token_stride, q_rope_head_stride;
  const std::byte* rows;  // bf16 rows: pages of the cache, or the workspace of dequantised rows
  const int32_t* page_tables;  // [sequences, max_pages]; null: rows lie as `spans` says
  int max_pages;
  const int32_t* sequence_of;  // [tokens]
  const int32_t* positions;    // [tokens]
  const int32_t* picked;       // [tokens, topk] or null
  int topk, heads;
  float scale_log2;  // softmax scale times log2(e)
  Bf16* out;         // [tokens, heads, 512]
  SpanTable spans;
};

#if defined(__CUDACC__)
// Row of position p: page table[p / 64] * 64 + p % 64, or without a table base + p.
struct PrefillRows {
  const int32_t* table;
  int64_t base;
};

__device__ __forceinline__ PrefillRows prefill_rows(const PrefillArgs& a, int index) {
  if (a.page_tables) return {a.page_tables + int64_t{a.sequence_of[index]} * a.max_pages, 0};
  int span = 0;
  while (span + 1 < a.spans.count && index >= a.spans.token[span + 1]) ++span;
  return {nullptr, a.spans.base[span]};
}
#endif

// Rows [0, base[count]) of the workspace from the pages of fp8 rows; base is as in SpanTable.
struct DequantiseArgs {
  const std::byte* rows;       // fp8 rows of 656 bytes
  const int32_t* page_tables;  // [sequences, max_pages]
  int max_pages;
  std::byte* out;  // bf16 rows
  int count = 0;
  int64_t base[kMaxSpans + 1] = {};
  int sequence[kMaxSpans] = {};
  int context[kMaxSpans] = {};  // rows beyond it are left alone
};

void launch_prefill(const PrefillArgs& a, int tokens, const Launch& l);
void launch_dequantise(const DequantiseArgs& a, const Launch& l);

}  // namespace fathom::cuda::prefill
