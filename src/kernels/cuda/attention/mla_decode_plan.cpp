#include "kernels/cuda/attention/mla_decode_plan.h"

#include <algorithm>

#include "base/rounding.h"

namespace fathom::cuda::decode {
namespace {

// Microseconds on an H200: a step of 64 keys, start and end of a thread block, the second kernel
// and each further round of its loads.
constexpr double kStepUs = 2.3, kBlockUs = 7.5, kCombineUs = 3.0, kRoundUs = 1.5;
// Partial sums are written and read once, mostly within L2: the first of them cost next to nothing.
constexpr double kFreePartialBytes = 8.4e6, kPartialBytesPerUs = 1.4e6;
constexpr double kRowBytes = 4.0 * 512;
constexpr size_t kSplitBytes = 512 * sizeof(float) + 2 * sizeof(float);  // of one head

// Splits of the batch-invariant plan. Each costs a partial sum at any batch size, so they are few,
// but enough that a single sequence is spread over several processors.
constexpr int kInvariantSparse = 4, kInvariantDense = 16;
constexpr int kInvariantGroup = 264;  // thread blocks of a launch: two a processor

// Of the second kernel, for so many (token, head) rows.
double combine_us(int64_t splits, double rows) {
  const int64_t at_once = splits < kManySplits ? kSplitsAtOnce : kManyAtOnce;
  const double bytes = rows * static_cast<double>(splits) * kRowBytes;
  return kCombineUs + static_cast<double>(ceil_div(splits, at_once) - 1) * kRoundUs +
         std::max(0.0, bytes - kFreePartialBytes) / kPartialBytesPerUs;
}

}  // namespace

Plan plan(const Shape& s) {
  const int64_t blocks = std::max<int64_t>(1, ceil_div(s.keys, kBlockKeys));
  const int64_t tiles = ceil_div(s.heads, kTileHeads);
  if (s.batch_invariant) {
    int splits =
        s.dense ? kInvariantDense : static_cast<int>(std::min<int64_t>(kInvariantSparse, blocks));
    int64_t group = std::max<int64_t>(1, kInvariantGroup / (tiles * splits));
    return {splits, static_cast<int>(std::min<int64_t>(group, s.tokens))};
  }
  int best = 1;
  double least = 0;
  for (int64_t splits = 1; splits <= std::min<int64_t>(blocks, kMaxSplits); ++splits) {
    int64_t steps = ceil_div(blocks, splits);
    int64_t waves = ceil_div(s.tokens * tiles * splits, s.sms);
    if (splits > 1 && waves > kMaxWaves) break;
    double us = static_cast<double>(waves) * (static_cast<double>(steps) * kStepUs + kBlockUs);
    if (splits > 1) us += combine_us(splits, static_cast<double>(s.tokens) * s.heads);
    if (splits == 1 || us < least) {
      least = us;
      best = static_cast<int>(splits);
    }
  }
  return {best, s.tokens};
}

size_t partial_bytes(const Plan& p, int tokens, int heads) {
  if (p.splits == 1) return 0;
  return static_cast<size_t>(std::min(tokens, p.group_tokens)) * p.splits * heads * kSplitBytes;
}

size_t partial_bound(int max_tokens, int heads, int sms) {
  const size_t tiles = static_cast<size_t>(ceil_div(heads, kTileHeads));
  // One token alone may be cut into kInvariantDense parts whatever the processor count.
  const size_t blocks =
      std::max<size_t>(static_cast<size_t>(kMaxWaves) * sms,
                       std::max<size_t>(kInvariantGroup, tiles * kInvariantDense));
  const size_t most = static_cast<size_t>(max_tokens) * tiles * kMaxSplits;
  // Whole tiles of heads: `heads` of them where there are fewer.
  return std::min(blocks, most) * std::min(heads, kTileHeads) * kSplitBytes;
}

}  // namespace fathom::cuda::decode
