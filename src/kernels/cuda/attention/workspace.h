// Scratch of the attention kernels: plain functions of sizes, so that memory is planned without a
// GPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention/mha_plan.h"
#include "kernels/cuda/attention/mla_decode_plan.h"
#include "numerics/cache_rows.h"

namespace fathom::cuda {

// A bound for sparse and dense decodes, any length and both ways of splitting: all need much the
// same.
inline size_t mla_decode_workspace(int max_tokens, int heads, int /*topk*/, int64_t /*max_context*/,
                                   int sms, bool /*batch_invariant*/) {
  return decode::partial_bound(max_tokens, heads, sms);
}

// Bytes with which a prompt's span of this context is dequantised to bf16 in one piece. More lets
// more sequences share a launch; a bf16 cache needs none. mla_decode's own needs come on top of
// neither: the two use the workspace one after the other.
inline constexpr int64_t kPrefillRowBytes = 2 * KernelDims::kRow;
constexpr size_t mla_prefill_workspace(int64_t context, bool fp8) {
  if (!fp8) return 0;
  return static_cast<size_t>((context + kPageRows - 1) / kPageRows * kPageRows * kPrefillRowBytes);
}

// Bytes for spans of up to `tokens` at up to `context`, `heads_at_once` heads in one group (more
// heads a group keep the GPU fuller; 1 is the least that works).
inline size_t mha_prefill_workspace(int tokens, int64_t context, int heads_at_once) {
  return mha::workspace_plan(tokens, context, true, heads_at_once).bytes;
}

}  // namespace fathom::cuda
