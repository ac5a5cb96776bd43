// Histograms of order keys and the search for the bin of the k-th greatest: what both top-k kernels
// are made of. Bins count keys; a bin is searched from above, runs of bins first.
#pragma once

#include <cstdint>

#include "kernels/cuda/prim/cluster.h"
#include "kernels/cuda/prim/warp_sum.h"

namespace fathom::cuda::topk {

inline constexpr int kBins = 4096;  // of 12 bits of a key
inline constexpr int kGroups = 32;  // runs of bins whose sums are found first, one a lane
inline constexpr int kMaxCluster = 8;

// The bin that holds the wanted key, how many keys lie in higher bins, how many in it.
struct Found {
  uint32_t bin, above, count;
};

// Sums of runs of bins / 32 bins, by all warps. Call between two barriers.
__device__ __forceinline__ void sum_groups(const uint32_t* hist, int bins, uint32_t* group) {
  int lane = threadIdx.x % 32, run = bins / kGroups;
  for (int g = threadIdx.x / 32; g < kGroups; g += blockDim.x / 32) {
    uint32_t sum = 0;
    for (int i = lane; i < run; i += 32) sum += hist[g * run + i];
    sum = __reduce_add_sync(~0u, sum);
    if (lane == 0) group[g] = sum;
  }
}

// Finds the bin of the need-th key from above, in histograms summed over `ctas` CTAs. Called by one
// warp.
__device__ __forceinline__ void find_bin(Found& found, const uint32_t* hist, int bins,
                                         const uint32_t* group, uint32_t need, int ctas) {
  int lane = threadIdx.x % 32, run = bins / kGroups;
  auto total = [&](const uint32_t* p) {
    if (ctas == 1) return *p;
    uint32_t parts[kMaxCluster], sum = 0;
#pragma unroll
    for (int c = 0; c < kMaxCluster; ++c) parts[c] = c < ctas ? load_remote(p, c) : 0;
#pragma unroll
    for (int c = 0; c < kMaxCluster; ++c) sum += parts[c];
    return sum;
  };
  uint32_t own = total(group + lane);
  uint32_t reached = suffix_sum(own, lane);
  // Lanes 0..g reach `need`: the run is the last of them.
  int g = 31 - __clz(__ballot_sync(~0u, reached >= need));
  uint32_t above = __shfl_sync(~0u, reached - own, g);

  // A run of 128, 32 or 8 bins; a lane takes `each` neighbours, highest lane highest bins.
  int each = (run + 31) / 32;
  uint32_t count[4] = {}, sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    int bin = lane * each + i;
    if (i < each && bin < run) count[i] = total(hist + g * run + bin);
    sum += count[i];
  }
  reached = suffix_sum(sum, lane) + above;
  int l = 31 - __clz(__ballot_sync(~0u, reached >= need));
  if (lane == l) {
    above = reached - sum;
    int i = 3;
    uint32_t at = 0;
#pragma unroll
    for (int j = 3; j >= 0; --j)
      if (above + count[j] < need) {
        above += count[j];
        i = j - 1;
      } else {
        break;
      }
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (j == i) at = count[j];
    found = {static_cast<uint32_t>(g * run + lane * each + i), above, at};
  }
}

}  // namespace fathom::cuda::topk
