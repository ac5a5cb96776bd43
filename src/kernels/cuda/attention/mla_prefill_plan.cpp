#include "kernels/cuda/attention/mla_prefill_plan.h"

#include <algorithm>

namespace fathom::cuda::prefill {
namespace {

// Nanoseconds on an H100. A block of the prefill kernel reads all keys of its token, whatever the
// load. mla_decode spreads them over the device, and pays for combining and for reading fp8 rows.
constexpr double kPrefillPerKey = 27.0;  // for each wave of blocks
constexpr double kDecodePerKey = 0.35;   // for each tile of heads, on a full device
constexpr double kDecodeStart = 12e3;    // two short launches: splits and combining
constexpr double kDequantiseStart = 4e3, kDequantisePerRow = 0.65;

bool for_decode(const PrefillSpan& span, const PlanLimits& limits) {
  if (!limits.may_decode) return false;
  if (limits.fp8 && span_rows(span) > limits.workspace_rows) return true;
  const int64_t tiles = int64_t{span.end - span.begin} * limits.head_tiles;
  const double keys = static_cast<double>(std::min<int64_t>(limits.topk, span.context));
  const double waves = static_cast<double>((tiles + limits.sms - 1) / limits.sms);
  double prefill = waves * keys * kPrefillPerKey;
  if (limits.fp8)
    prefill += kDequantiseStart + kDequantisePerRow * static_cast<double>(span.context);
  return kDecodeStart + static_cast<double>(tiles) * keys * kDecodePerKey < prefill;
}

}  // namespace

Pass next_pass(std::span<const PrefillSpan> spans, size_t first, const PlanLimits& limits) {
  Pass pass{first, first, for_decode(spans[first], limits), 0};
  for (size_t i = first; i < spans.size(); ++i) {
    const bool fits_table = i - first < static_cast<size_t>(limits.max_spans);
    const bool adjacent = i == first || spans[i].begin == spans[i - 1].end;
    if (!fits_table || !adjacent || for_decode(spans[i], limits) != pass.decode) break;
    if (limits.fp8 && !pass.decode) {
      if (pass.rows + span_rows(spans[i]) > limits.workspace_rows) break;
      pass.rows += span_rows(spans[i]);
    }
    pass.last = i + 1;
  }
  if (pass.last == first) pass.rows = -1;
  return pass;
}

}  // namespace fathom::cuda::prefill
