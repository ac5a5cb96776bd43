#include "plan/kernel_times.h"

#include <algorithm>
#include <array>

namespace fathom::plan {
namespace {

// One H200, 2026-11: `fathom bench kernels` and whole layers of `fathom bench --random`
// (docs/parallel.md, "Planning", has the measurements behind each figure).
constexpr double kReadRate = 4.30e12, kFp8Rate = 1979e12, kBf16Rate = 989e12, kLinkRate = 450e9;

constexpr double kProductStart = 3.0, kHalfStart = 2.0;  // us
constexpr double kWeightRate = 4.16e6;                   // bytes/us, one matrix
constexpr double kGroupedRate = 4.40e6;                  // many experts in one launch
constexpr double kFewRate = 3.20e9;   // FLOP/us that come on top of reading the weights
constexpr double kManyRate = 1.40e9;  // FLOP/us where they are all that counts
constexpr double kHalfRate = 0.38e9;  // bf16 products of many rows by small matrices

constexpr double kScoreStart = 3.0, kScoreRows = 3.75e6, kScoreRate = 1.07e9;
constexpr double kTopkStart = 9.5, kTopkKey = 7e-5, kTopkRow = 0.021, kTopkRows = 2.63e6;
constexpr double kDecodeStart = 16.5, kDecodeRate = 0.404e9;
constexpr double kPromptStart = 8.0, kPromptRate = 0.60e9;
constexpr int kHeadTile = 64;

// What whole layers take beyond the kernels above: launches, passes over activations, and that
// large kernels in a row run at a lower clock than each alone.
struct Rest {
  double rows, us;
};
constexpr std::array kRest = {Rest{1, 31}, Rest{16, 56}, Rest{64, 140}, Rest{4096, 2450}};

// Two H200, 18 NVLinks: `bench kernels --only exchange` (us, bytes/us, bytes that a rank sends).
constexpr double kOneShotStart = 3.2, kOneShotRate = 0.32e6, kOneShotBytes = 2.0 * (1 << 20);
constexpr double kTwoShotStart = 6.2, kTwoShotRate = 0.345e6;
constexpr double kGatherStart = 6.2, kGatherRate = 0.35e6;
// Rows that go to the ranks of their experts, and back, summed up.
constexpr double kSendStart = 5.5, kSendRate = 0.346e6;
constexpr double kBringStart = 6.5, kBringRate = 0.33e6;
// A row of another rank is permuted, summed and sent beside a rank's own: chunks of 4,096 at 8K in
// `dp` on two H200.
constexpr double kOtherRow = 0.26;
// Between nodes: one 400 Gbit/s adapter a GPU. Assumed, not measured.
constexpr double kNodeStart = 30.0, kNodeRate = 0.04e6;

double tiled_heads(int heads) {
  const int tiles = (heads + kHeadTile - 1) / kHeadTile;
  return tiles * static_cast<double>(kHeadTile);
}

}  // namespace

KernelTimes::KernelTimes(const GpuModel& gpu, bool wide) {
  const double memory = gpu.read_rate / kReadRate, half = gpu.bf16_rate / kBf16Rate;
  const double products = wide ? gpu.bf16_rate / kFp8Rate : gpu.fp8_rate / kFp8Rate;
  weights_ = kWeightRate * memory;
  grouped_ = kGroupedRate * memory;
  rows_ = memory;
  few_ = kFewRate * products;
  many_ = kManyRate * products;
  half_ = kHalfRate * half;
  scores_ = kScoreRate * products;
  decode_ = kDecodeRate * half;
  prompt_ = kPromptRate * half;
  bytes_ = wide ? 2 : 1;
}

double KernelTimes::product(double rows, double n, double k) const {
  const double flops = 2 * rows * n * k;
  return kProductStart + std::max(n * k * bytes_ / weights_ + flops / few_, flops / many_);
}

double KernelTimes::grouped(double rows, double active, double n, double k) const {
  const double flops = 2 * rows * n * k;
  return kProductStart + std::max(active * n * k * bytes_ / grouped_ + flops / few_, flops / many_);
}

double KernelTimes::half_product(double rows, double n, double k) const {
  return kHalfStart + std::max(2 * n * k / weights_, 2 * rows * n * k / half_);
}

double KernelTimes::decode_scores(double rows, double context, double row_bytes) const {
  return kScoreStart + rows * context * row_bytes / (kScoreRows * rows_);
}

double KernelTimes::prompt_scores(double pairs, double index_heads, double index_dim) const {
  return kScoreStart + 2 * index_heads * index_dim * pairs / scores_;
}

double KernelTimes::top_k(double rows, double context) const {
  return kTopkStart + kTopkKey * context + kTopkRow * rows +
         4 * rows * context / (kTopkRows * rows_);
}

double KernelTimes::decode_attention(double rows, double keys, int heads, double width,
                                     double row_bytes) const {
  const double flops = 2 * rows * keys * tiled_heads(heads) * width;
  return kDecodeStart + std::max(flops / decode_, rows * keys * row_bytes / (kScoreRows * rows_));
}

double KernelTimes::prompt_attention(double pairs, int heads, double width) const {
  return kPromptStart + 2 * pairs * tiled_heads(heads) * width / prompt_;
}

double KernelTimes::rest_of_layer(double rows) const {
  if (rows <= kRest.front().rows) return kRest.front().us;
  for (size_t i = 1; i < kRest.size(); ++i) {
    const Rest &a = kRest[i - 1], &b = kRest[i];
    if (rows <= b.rows) return a.us + (b.us - a.us) * (rows - a.rows) / (b.rows - a.rows);
  }
  return kRest.back().us * rows / kRest.back().rows;
}

ExchangeTimes::ExchangeTimes(const GpuModel& gpu, int per_node) : gpu_(gpu), per_node_(per_node) {}

double ExchangeTimes::rate(int ranks, double measured) const {
  return ranks > per_node_ ? kNodeRate : measured * gpu_.link_rate / kLinkRate;
}

double ExchangeTimes::start(int ranks, double measured) const {
  return ranks > per_node_ ? kNodeStart : measured;
}

double ExchangeTimes::sum(int ranks, double rows, double row_bytes) const {
  if (ranks == 1) return 0;
  // One shot: all rows to every other rank. Two shots: each rank gets its part of the rows from the
  // others, and the sums travel once more.
  const double bytes = rows * row_bytes, one = bytes * (ranks - 1), two = 2 * one / ranks;
  const double two_shot = start(ranks, kTwoShotStart) + two / rate(ranks, kTwoShotRate);
  if (ranks > per_node_ || one > kOneShotBytes) return two_shot;
  return std::min(two_shot, start(ranks, kOneShotStart) + one / rate(ranks, kOneShotRate));
}

double ExchangeTimes::gather(int ranks, double bytes) const {
  if (ranks == 1) return 0;
  return start(ranks, kGatherStart) + bytes * (ranks - 1) / ranks / rate(ranks, kGatherRate);
}

double ExchangeTimes::send_rows(int ranks, double bytes) const {
  if (ranks == 1) return 0;
  return start(ranks, kSendStart) + bytes / rate(ranks, kSendRate);
}

double ExchangeTimes::bring_rows(int ranks, double bytes) const {
  if (ranks == 1) return 0;
  return start(ranks, kBringStart) + bytes / rate(ranks, kBringRate);
}

double ExchangeTimes::rest_of_others(double rows) const { return kOtherRow * rows; }

}  // namespace fathom::plan
