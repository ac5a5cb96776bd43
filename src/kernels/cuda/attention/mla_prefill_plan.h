// Which tokens of a step share a launch of the prefill kernel, and which are left to mla_decode.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cuda/attention/mla_prefill_rows.h"

namespace fathom::cuda::prefill {

struct PlanLimits {
  bool fp8 = true;         // rows must be dequantised
  bool may_decode = true;  // spans may go to mla_decode; false: only the prefill kernel
  int64_t workspace_rows = 0;
  int max_spans = 64;
  int head_tiles = 2;  // of 64 heads
  int topk = 2048;     // keys of a token, at most
  int sms = 132;
};

// Spans [first, last), adjacent in the batch, that one launch takes.
struct Pass {
  size_t first = 0, last = 0;
  bool decode = false;  // by mla_decode
  int64_t rows = 0;     // dequantised rows, each span's rounded up to a page
};

// The pass that begins at span `first`. `rows` = -1 in the result: the span does not fit, and
// nothing else may take it.
Pass next_pass(std::span<const PrefillSpan> spans, size_t first, const PlanLimits& limits);

}  // namespace fathom::cuda::prefill
