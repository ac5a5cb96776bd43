#include "kernels/cuda/gemm/bf16_plan.h"

#include <algorithm>

#include "base/check.h"
#include "base/rounding.h"

namespace fathom::cuda {
namespace {

constexpr int kSharedBytes = 228 * 1024;  // of a processor; each CTA needs one KiB beside its own
constexpr int kMaxStages = 24;

// Nanoseconds and bytes per nanosecond as measured on an H100 (docs/performance.md); the choice
// rests on their ratios.
constexpr double kDeviceRate = 3000;    // from memory, all processors together
constexpr double kCacheRate = 10000;    // from L2, all processors together
constexpr double kProcessorRate = 100;  // into the shared memory of one processor
constexpr double kCyclesPerNs = 1.9;
constexpr double kStartNs = 2200;       // launch, first loads, last stores
constexpr double kLatencyNs = 1100;     // of a load from memory, shared by the stages in flight
constexpr double kSliceNs = 125;        // of a stage's barriers and dependent wgmmas
constexpr double kReduceNs = 1500;      // partial sums meet in a cluster ...
constexpr double kReduceRate = 20;      // ... and cross it
constexpr double kLineStoreRate = 20;   // of an epilogue that writes whole lines (tokens on M)
constexpr double kSectorStoreRate = 7;  // and of one that writes sectors (weights on M)

int tail_bytes(const Bf16Shape& s, int experts) {
  const int staging = s.warpgroups * 4 * (s.tokens_m ? 4096 : s.n_rows * 32);
  return staging + (s.grouped ? 4 * (experts + 1) : 0);
}

// A split tile of few tokens leaves half the memory to the next kernel, which then fetches its
// first weights while the cluster adds up.
int stages_that_fit(const Bf16Shape& s, int splits, int experts) {
  const int ctas = splits > 1 && s.n_rows <= 32 ? 2 : s.per_processor();
  const int room = kSharedBytes / ctas - 1024 - tail_bytes(s, experts);
  return std::min(kMaxStages, room / (s.stage_bytes() + 16));
}

// Nanoseconds of one plan on an idle device with cold weights.
double cost(const Bf16Problem& p, int sms, const Bf16Shape& s, int splits) {
  const int64_t tiles = ceil_div(p.rows, s.token_rows()) * ceil_div(p.n, s.weight_rows()) * p.batch;
  const int64_t slices = ceil_div(ceil_div(p.k, kBf16SliceK), splits);
  // Operands may be smaller than their boxes.
  const double tokens = static_cast<double>(std::min<int64_t>(p.rows, s.token_rows()));
  const double weights = static_cast<double>(std::min<int64_t>(p.n, s.weight_rows()));
  // A wgmma of n columns takes n / 2 cycles, or as long as its operands need to leave shared
  // memory.
  const double wgmma = std::max(s.n_rows / 2.0, 16 + s.n_rows / 4.0);
  const double slice_ns = std::max({kSliceNs, kLatencyNs / stages_that_fit(s, splits, 0),
                                    4 * s.warpgroups * wgmma / kCyclesPerNs});
  const double tile_bytes = tokens * weights * 2;
  const double tile_ns =
      splits > 1 ? 0 : tile_bytes / (s.tokens_m ? kLineStoreRate : kSectorStoreRate);
  // Clusters cannot use every processor, since the CTAs of one must be in the same part of the
  // chip.
  const int64_t room = splits > 1 ? int64_t{sms} * 9 / 10 * (s.n_rows <= 32 ? 2 : 1) : sms;
  const double waves = static_cast<double>(ceil_div(tiles * splits, room));
  // Split tiles are not persistent: each wave starts anew and ends with an unhidden reduction.
  const double start =
      splits > 1 ? waves * (kStartNs + kReduceNs + 2 * tile_bytes / kReduceRate) : kStartNs;
  const double memory =
      2.0 * static_cast<double>(p.batch * (p.rows * p.k + p.n * p.k + p.rows * p.n)) / kDeviceRate;
  const double cache =
      static_cast<double>(tiles * splits * slices) * (tokens + weights) * 128 / kCacheRate;
  const double processor = waves * (static_cast<double>(slices) * slice_ns + tile_ns);
  // The tightest limit decides, but the work of a processor never hides completely.
  return start + std::max({memory, cache, processor}) + 0.15 * processor;
}

Bf16Shape grouped_shape(const Bf16Problem& p) {
  const int64_t mean = p.rows / p.experts;
  if (mean > 48) return {.warpgroups = 2, .n_rows = 256, .tokens_m = true, .grouped = true};
  return {.warpgroups = 2, .n_rows = mean > 6 ? 64 : 16, .grouped = true};
}

}  // namespace

Bf16Plan plan_bf16_as(const Bf16Problem& p, int sms, const Bf16Shape& shape, int splits) {
  const int64_t slices = ceil_div(p.k, kBf16SliceK);
  FATHOM_CHECK(splits >= 1 && splits <= std::min<int64_t>(slices, 8), "{} splits of {} slices",
               splits, slices);
  FATHOM_CHECK(splits == 1 || (!shape.tokens_m && !shape.grouped), "{} splits", splits);
  Bf16Plan plan{.shape = shape, .splits = splits};
  int64_t tiles =
      ceil_div(p.rows, shape.token_rows()) * ceil_div(p.n, shape.weight_rows()) * p.batch;
  if (shape.grouped)  // the bound: every expert may end with a tile of its own
    tiles = (ceil_div(p.rows, shape.token_rows()) + std::min<int64_t>(p.experts, p.rows)) *
            ceil_div(p.n, shape.weight_rows());
  const int64_t units = tiles * splits;
  plan.grid = static_cast<int>(
      splits > 1 ? units : std::min<int64_t>(units, int64_t{sms} * shape.per_processor()));
  const int64_t needed = ceil_div(slices, splits) * ceil_div(units, plan.grid);
  plan.stages =
      static_cast<int>(std::clamp<int64_t>(needed, 1, stages_that_fit(shape, splits, p.experts)));
  // Partial sums are written into the ring once it is empty, so it must be large enough for them.
  if (splits > 1)
    plan.stages = std::max(
        plan.stages, static_cast<int>(ceil_div(int64_t{4} * shape.n_rows * (shape.m_rows() + 4),
                                               shape.stage_bytes())));
  plan.smem = plan.stages * (shape.stage_bytes() + 16) + tail_bytes(shape, p.experts);
  FATHOM_CHECK(plan.smem <= kSharedBytes - 1024, "{} bytes of shared memory", plan.smem);
  return plan;
}

Bf16Plan plan_bf16(const Bf16Problem& p, int sms, bool batch_invariant) {
  if (p.experts > 0) return plan_bf16_as(p, sms, grouped_shape(p), 1);
  const int64_t slices = ceil_div(p.k, kBf16SliceK);
  // A fixed split pays where one wave of tiles cannot fill the device for any number of rows. Wider
  // products do not split k, and every shape sums an unsplit k in the same order.
  int fixed = 0;
  if (batch_invariant) {
    fixed = 1;
    while (fixed < 8 && fixed * 2 <= slices && p.n * p.batch <= 1024 &&
           ceil_div(p.n, 64) * p.batch * fixed * 2 <= sms)
      fixed *= 2;
  }
  int tokens = 8;
  while (tokens < 128 && tokens < p.rows) tokens *= 2;

  Bf16Shape best;
  int best_splits = 1;
  double best_cost = -1;
  const auto consider = [&](const Bf16Shape& s, int splits) {
    if (splits > slices || (fixed > 0 && splits != fixed)) return;
    const double c = cost(p, sms, s, splits);
    if (best_cost >= 0 && c >= best_cost) return;
    best = s;
    best_splits = splits;
    best_cost = c;
  };
  for (int warpgroups : {2, 1})
    for (int splits : {1, 2, 4, 8}) {
      if (warpgroups == 2 && p.n <= 64) continue;
      consider({.warpgroups = warpgroups, .n_rows = tokens}, splits);
      if (tokens == 128 && p.n <= 1024) consider({.warpgroups = warpgroups, .n_rows = 64}, splits);
    }
  // With a short k most time goes into the epilogue. Many rows: wide tiles, which read least from
  // L2 for what they write. Less: small tiles, several a processor, hide it best, except for medium
  // row counts, where their last wave would be half empty.
  if (slices <= 2 && fixed <= 1 && p.rows >= 2048 && p.n % 256 == 0)
    return plan_bf16_as(p, sms, {.warpgroups = 2, .n_rows = 256, .tokens_m = true}, 1);
  if (slices <= 2 && fixed <= 1 && ((p.rows > 16 && p.rows <= 64) || p.rows >= 256))
    return plan_bf16_as(p, sms, {.warpgroups = 1, .n_rows = 128, .tokens_m = true}, 1);
  if (p.rows > 32)
    for (int columns : {128, 256})
      consider({.warpgroups = 2, .n_rows = columns, .tokens_m = true}, 1);
  return plan_bf16_as(p, sms, best, best_splits);
}

}  // namespace fathom::cuda
