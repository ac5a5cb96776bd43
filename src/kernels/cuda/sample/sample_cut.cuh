// The last token, in order of preference, before a measure (a count, or a weight) reaches an
// amount.
#pragma once

#include "kernels/cuda/sample/sample_row.cuh"

namespace fathom::cuda::sample {

// Finds the bin in which the measure, summed from above, reaches need_of(its total). If the need is
// above the total it finds kNothing. Called by one warp.
template <class NeedOf>
__device__ __forceinline__ void find_bin(Shared& s, int buffer, NeedOf need_of) {
  const int lane = threadIdx.x % 32;
  uint64_t own = cluster_total(&s.group[buffer][lane]);
  uint64_t reached = suffix_sum(own, lane);
  const uint64_t total = __shfl_sync(~0u, reached, 0), need = need_of(total);
  if (lane == 0) s.found_need = need;
  if (need > total) {
    if (lane == 0) s.found_bin = kNothing;
    return;
  }
  const int g = 31 - __clz(__ballot_sync(~0u, reached >= need));
  const uint64_t above = __shfl_sync(~0u, reached - own, g);

  own = cluster_total(&s.sum[buffer][g * kRun + lane]);
  reached = suffix_sum(own, lane) + above;
  if (lane == 31 - __clz(__ballot_sync(~0u, reached >= need))) {
    s.found_bin = g * kRun + lane;
    s.found_above = reached - own;
  }
}

// Lists the tokens from a coarse bin on, unless they are too many.
__device__ __forceinline__ void shorten(Shared& s, Row& row, uint32_t bin) {
  if (row.listed) return;
  if (threadIdx.x == 0) s.listed = 0;
  __syncthreads();
  for_tokens<2>(s, row, [&](uint32_t i, float logit) {
    if (row.coarse_digit(logit) < bin) return;
    const uint32_t slot = atomicAdd(&s.listed, 1);
    if (slot < kListed) s.list[slot] = static_cast<uint16_t>(i);
  });
  __syncthreads();
  row.listed = s.listed <= kListed;
}

// The cut where few tokens of the cluster have the coarse digit `bin`, of whose measure `need` is
// to be reached. False: they are more than a few.
__device__ __forceinline__ bool rank_few(Shared& s, const Row& row, bool by_count, uint32_t bin,
                                         uint64_t need) {
  uint32_t* count = &s.few_count[by_count];
  for_tokens<2>(s, row, [&](uint32_t i, float logit) {
    if (row.coarse_digit(logit) != bin) return;
    const uint64_t measure = row.measure(by_count, i, logit);
    if (measure == 0) return;
    const uint32_t slot = atomicAdd(count, 1);
    if (slot < kFew) s.few[by_count][slot] = {preference(logit, row.first + i), measure};
  });
  meet_cluster();
  uint32_t counts[kCluster], most = 0, total = 0;
#pragma unroll
  for (int c = 0; c < kCluster; ++c) counts[c] = load_remote(count, c);
#pragma unroll
  for (int c = 0; c < kCluster; ++c) most = max(most, counts[c]);
  if (most > kFew) return false;
#pragma unroll
  for (int c = 0; c < kCluster; ++c) {
    if (threadIdx.x < counts[c]) {
      const Candidate* from = &s.few[by_count][threadIdx.x];
      s.all[total + threadIdx.x] = {load_remote(&from->preference, c),
                                    load_remote(&from->measure, c)};
    }
    total += counts[c];
  }
  __syncthreads();
  for (uint32_t at = threadIdx.x; at < total; at += kThreads) {
    const Candidate own = s.all[at];
    uint64_t above = 0;
    for (uint32_t i = 0; i < total; ++i)
      above += s.all[i].preference > own.preference ? s.all[i].measure : 0;
    if (above < need && above + own.measure >= need) s.cut = own.preference;
  }
  __syncthreads();
  return true;
}

// The preference of the token at which the measure reaches need_of(its total), 0 if it does not.
// `round` runs on between calls: it alternates buffers that other CTAs may still be reading.
template <class NeedOf>
__device__ __forceinline__ uint64_t find_cut(Shared& s, Row& row, bool by_count, NeedOf need_of,
                                             int& round) {
  uint32_t digits[kLevels];
  uint64_t need = 0, cut = 0;
  for (int level = 0; level < kLevels; ++level, ++round) {
    const int buffer = round & 1;
    for (int i = threadIdx.x; i < kParts * kBins; i += kThreads) s.part[i] = 0;
    if (level == 0 && threadIdx.x == 0) s.few_count[by_count] = 0;
    __syncthreads();
    for_tokens<2>(s, row, [&](uint32_t i, float logit) {
      for (int above = 0; above < level; ++above)
        if (row.digit(above, i, logit) != digits[above]) return;
      const uint64_t w = row.measure(by_count, i, logit);
      uint32_t* part = s.part + row.digit(level, i, logit);
#pragma unroll
      for (int j = 0; j < kParts; ++j) {
        const uint32_t value =
            static_cast<uint32_t>(w >> (j * kPartBits)) & ((1u << kPartBits) - 1);
        if (value) atomicAdd(part + j * kBins, value);
      }
    });
    __syncthreads();
    for (int g = threadIdx.x / 32; g < kGroups; g += kWarps) {
      const int bin = g * kRun + threadIdx.x % 32;
      uint64_t v = 0;
#pragma unroll
      for (int j = 0; j < kParts; ++j) v += uint64_t{s.part[j * kBins + bin]} << (j * kPartBits);
      s.sum[buffer][bin] = v;
      v = warp_sum(v);
      if (threadIdx.x % 32 == 0) s.group[buffer][g] = v;
    }
    meet_cluster();
    if (threadIdx.x < 32) {
      if (level == 0)
        find_bin(s, buffer, need_of);
      else
        find_bin(s, buffer, [&](uint64_t) { return need; });
    }
    __syncthreads();
    digits[level] = s.found_bin;
    if (level > 0) {
      need -= s.found_above;
      cut = cut << kDigitBits | s.found_bin;
      continue;
    }
    if (s.found_bin == kNothing) {
      ++round;
      return 0;
    }
    need = s.found_need - s.found_above;
    shorten(s, row, digits[0]);
    if (rank_few(s, row, by_count, digits[0], need)) {
      ++round;
      return s.cut;
    }
  }
  return cut;
}

}  // namespace fathom::cuda::sample
