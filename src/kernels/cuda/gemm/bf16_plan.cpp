#include "kernels/cuda/gemm/bf16_plan.h"

#include <algorithm>

#include "base/check.h"

namespace fathom::cuda {
namespace {

constexpr int kSharedBytes = 227 * 1024;      // of one CTA alone on its processor
constexpr int kHalfSharedBytes = 113 * 1024;  // when two share it
constexpr int kMaxStages = 32;

// Rates of an H100 that the choice rests on; only their ratios matter.
constexpr double kDeviceBytesPerNs = 3000;   // from memory, all processors together
constexpr double kProcessorBytesPerNs = 42;  // into the shared memory of one
constexpr double kCyclesPerNs = 1.7;
constexpr double kStartNs = 2500;   // launch, first loads, last stores
constexpr double kReduceNs = 1000;  // partial sums meet in a cluster
constexpr double kTileNs = 250;     // a tile's epilogue that no load hides

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

int tail_bytes(const Bf16Shape& s, int experts) {
  const int staging = s.warpgroups * 4 * (s.tokens_m ? 4096 : s.n_rows * 32);
  return staging + (s.grouped ? 4 * (experts + 1) : 0);
}

// Nanoseconds of one plan on an idle device with cold weights.
double cost(const Bf16Problem& p, int sms, const Bf16Shape& s, int splits) {
  const double token_tiles = static_cast<double>(ceil_div(p.rows, s.token_rows()));
  const double weight_tiles = static_cast<double>(ceil_div(p.n, s.weight_rows()));
  const double units =
      static_cast<double>(ceil_div(static_cast<int64_t>(token_tiles), s.multicast)) * s.multicast *
      weight_tiles * static_cast<double>(p.batch) * splits;
  const int64_t slices = ceil_div(ceil_div(p.k, kBf16SliceK), splits);
  // Operands may be smaller than their boxes.
  const double tokens = static_cast<double>(std::min<int64_t>(p.rows, s.token_rows()));
  const double weights = static_cast<double>(std::min<int64_t>(p.n, s.weight_rows()));
  const double slice_bytes = (tokens + weights / s.multicast) * 128;
  // A wgmma of n columns takes n / 2 cycles, or as long as its operands need to leave shared
  // memory.
  const double wgmma = std::max(s.n_rows / 2.0, 16 + s.n_rows / 4.0);
  const double slice_ns =
      std::max(slice_bytes / kProcessorBytesPerNs, 4 * s.warpgroups * wgmma / kCyclesPerNs);
  const double out_ns = tokens * weights * 2 / kProcessorBytesPerNs;
  const double waves = static_cast<double>(ceil_div(static_cast<int64_t>(units), sms));
  const double memory = 2.0 * static_cast<double>(p.batch) *
                        (static_cast<double>(p.rows * p.k) + static_cast<double>(p.n * p.k) +
                         static_cast<double>(p.rows * p.n)) /
                        kDeviceBytesPerNs;
  return kStartNs + (splits > 1 ? kReduceNs : 0) +
         std::max(memory, waves * (static_cast<double>(slices) * slice_ns + kTileNs + out_ns));
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
  const int64_t token_tiles =
      ceil_div(ceil_div(p.rows, shape.token_rows()), shape.multicast) * shape.multicast;
  int64_t tiles = token_tiles * ceil_div(p.n, shape.weight_rows()) * p.batch;
  if (shape.grouped)  // the bound: every expert may end with a tile of its own
    tiles = (ceil_div(p.rows, shape.token_rows()) + std::min<int64_t>(p.experts, p.rows)) *
            ceil_div(p.n, shape.weight_rows());
  const int64_t units = tiles * splits;
  const int64_t persistent = std::max(1, sms / shape.multicast) * shape.multicast;
  plan.grid = static_cast<int>(splits > 1 ? units : std::min(units, persistent));
  // With few tokens half a processor's memory keeps enough loads in flight, and leaves room for the
  // next kernel's first weights (or for a second tile, where split tiles outnumber processors).
  const bool half = !shape.tokens_m && shape.n_rows <= 64;
  const int room = half || (splits > 1 && plan.grid > sms) ? kHalfSharedBytes : kSharedBytes;
  const int tail = tail_bytes(shape, p.experts);
  const int64_t needed = ceil_div(slices, splits) * ceil_div(units, plan.grid);
  const int fit = (room - tail) / (shape.stage_bytes() + 16);
  plan.stages = static_cast<int>(std::clamp<int64_t>(needed, 1, std::min(fit, kMaxStages)));
  // Partial sums lie in the ring once it is empty.
  if (splits > 1)
    plan.stages = std::max(
        plan.stages, static_cast<int>(ceil_div(int64_t{4} * shape.n_rows * (shape.m_rows() + 4),
                                               shape.stage_bytes())));
  plan.smem = plan.stages * (shape.stage_bytes() + 16) + tail;
  FATHOM_CHECK(plan.smem <= kSharedBytes, "{} bytes of shared memory", plan.smem);
  return plan;
}

Bf16Plan plan_bf16(const Bf16Problem& p, int sms, bool batch_invariant) {
  if (p.experts > 0) return plan_bf16_as(p, sms, grouped_shape(p), 1);
  const int64_t slices = ceil_div(p.k, kBf16SliceK);
  // A fixed split pays where one wave of tiles cannot fill the device for any number of rows;
  // wider products keep their k whole, which every shape sums alike.
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
      consider({.warpgroups = warpgroups, .n_rows = tokens}, splits);
      if (tokens == 128) consider({.warpgroups = warpgroups, .n_rows = 64}, splits);
    }
  if (p.rows > 64) {
    consider({.warpgroups = 2, .n_rows = 128, .tokens_m = true}, 1);
    consider({.warpgroups = 2, .n_rows = 256, .tokens_m = true}, 1);
    if (p.rows > 128)
      consider({.warpgroups = 2, .n_rows = 256, .tokens_m = true, .multicast = 2}, 1);
  }
  return plan_bf16_as(p, sms, best, best_splits);
}

}  // namespace fathom::cuda
