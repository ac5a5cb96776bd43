// Exact top-k of float rows: one row to a cluster of 1, 2, 4 or 8 CTAs, every score read once.
//
// Each thread keeps its scores in registers as order keys. A histogram of the top 12 bits, merged
// over the cluster, finds the bin that the k-th greatest key lies in; the few keys of that bin are
// then listed, exchanged, and the exact threshold is found among them by every CTA for itself.
// Should the bin hold more keys than the list does, another 12 and at last 8 bits are counted the
// same way, so no distribution of values can overflow anything.
//
// Numerics
//   in    scores f32, compared as order_key (numerics/selection.h): -0 equals +0; -inf is a value
//   ties  of the keys equal to the threshold the lowest positions are kept: output is in ascending
//         position, so that is a count of the equal keys before each one
//   no arithmetic on scores: the result is a function of their order alone
#pragma once

#include <cstdint>

#include "kernels/cuda/indexer/topk.h"
#include "kernels/cuda/indexer/topk_bins.cuh"
#include "numerics/selection.h"

namespace fathom::cuda {

namespace topk {

inline constexpr int kLocalBins = 1024;

// Capacity of the list of the threshold bin's keys, of all CTAs of a row together.
__host__ __device__ constexpr int list_size(int kept) { return kept > 8192 ? 2048 : 1024; }

// What a CTA lets its cluster read. `mine` and `above` are written together, before one barrier.
template <int kList>
struct Shared {
  uint32_t first[kBins];           // key bits 31..20
  uint32_t second[kBins];          // key bits 19..8
  uint32_t third[256];             // key bits 7..0
  uint32_t local[2 * kLocalBins];  // of the listed keys, two rounds: never read by others
  uint32_t group[3][kGroups];      // sums over runs of bins, one set a round
  uint32_t local_group[kGroups];
  uint32_t mine[kList];        // this CTA's keys of the threshold's bin
  uint32_t all[kList];         // everybody's
  uint32_t mine_count, above;  // keys listed; keys of higher bins
  uint32_t ties;               // keys equal to the threshold (last resort only)
  Found found;
  uint32_t warp_counts[32], warp_before[32];
};

template <int kThreads, int kVectors>
__global__ void __launch_bounds__(kThreads, 1024 / kThreads)
    topk_kernel(TopkParams p, int cluster) {
  constexpr int kWarps = kThreads / 32, kList = list_size(kThreads * kVectors * 4);
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  auto& s = *reinterpret_cast<Shared<kList>*>(shared_bytes);
  const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
  const int row = blockIdx.x / cluster, rank = blockIdx.x % cluster;
  int32_t* picked = p.picked + static_cast<int64_t>(row) * p.topk;

  for (int i = tid; i < kBins; i += kThreads) s.first[i] = 0;
  for (int i = tid; i < 2 * kLocalBins; i += kThreads) s.local[i] = 0;
  if (tid == 0) s.mine_count = s.above = s.ties = 0;
  pdl_wait();
  pdl_trigger();

  const int n = min(p.positions[row] + 1, static_cast<int>(p.max_context));
  if (n <= p.topk) {
    for (int i = rank * kThreads + tid; i < p.topk; i += cluster * kThreads)
      picked[i] = i < n ? i : -1;
    return;
  }

  // Phase 1: the keys. Quads of 4 scores are dealt in position order to CTAs, warps, vectors,
  // lanes. A row that fits one CTA stays in one: the others of the cluster leave.
  const int quads = (n + 3) / 4;
  const int ctas = quads <= kThreads * kVectors ? 1 : cluster;
  if (rank >= ctas) return;
  const int used = (quads + ctas * kThreads - 1) / (ctas * kThreads);  // vectors in use, the same
  const int first_quad = ((rank * kWarps + warp) * used) * 32 + lane;  // everywhere
  uint32_t key[kVectors * 4];
  {
    const float4* scores =
        reinterpret_cast<const float4*>(p.scores + static_cast<int64_t>(row) * p.stride);
    float4 loaded[kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      int quad = first_quad + v * 32;
      if (v < used && quad < quads) loaded[v] = scores[quad];
    }
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      int at = (first_quad + v * 32) * 4;
      const float value[4] = {loaded[v].x, loaded[v].y, loaded[v].z, loaded[v].w};
      // Positions past the row get key 0, which is below that of -inf, so they are never picked.
#pragma unroll
      for (int j = 0; j < 4; ++j) key[v * 4 + j] = v < used && at + j < n ? order_key(value[j]) : 0;
    }
  }
  auto meet = [&] {
    if (ctas > 1)
      meet_cluster();
    else
      __syncthreads();
  };
  // Every key of this thread that is in use.
  auto for_keys = [&](auto&& f) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v)
      if (v < used) {
#pragma unroll
        for (int j = 0; j < 4; ++j) f(key[v * 4 + j], v, j);
      }
  };

  // Phase 2: narrow the threshold down, 12, 12 and 8 bits, until its bin's keys fit the list.
  uint32_t need = p.topk, prefix = 0;
  int shift = 20;
  __syncthreads();
  for (int round = 0;; ++round) {
    uint32_t* hist = round == 0 ? s.first : round == 1 ? s.second : s.third;
    const int bins = round == 2 ? 256 : kBins;
    if (round > 0) {
      for (int i = tid; i < bins; i += kThreads) hist[i] = 0;
      __syncthreads();
      const int old_shift = round == 1 ? 20 : 8;
      for_keys([&](uint32_t k, int, int) {
        if (k >> old_shift == prefix >> old_shift) atomicAdd(&hist[(k >> shift) & (bins - 1)], 1);
      });
    } else {
      for_keys([&](uint32_t k, int, int) { atomicAdd(&hist[k >> 20], 1); });
    }
    __syncthreads();
    sum_groups(hist, bins, s.group[round]);
    meet();
    if (warp == 0) find_bin(s.found, hist, bins, s.group[round], need, ctas);
    __syncthreads();
    prefix |= s.found.bin << shift;
    need -= s.found.above;
    if (s.found.count <= uint32_t{kList} || round == 2) break;
    shift = round == 0 ? 8 : 0;
    __syncthreads();  // `found` is read before the next round writes it
  }

  // Phase 3: list the bin's keys and count those above it; then everybody sees every list.
  uint32_t before = 0;       // this thread's share of what the CTAs before this one pick: greater
  uint32_t before_ties = 0;  // keys, and keys equal to the threshold
  if (s.found.count <= uint32_t{kList}) {
    uint32_t above = 0, in = 0;
    for_keys([&](uint32_t k, int, int) {
      above += (k >> shift) > (prefix >> shift);
      in += (k >> shift) == (prefix >> shift);
    });
    above = __reduce_add_sync(~0u, above);
    const uint32_t end = prefix_sum(in, lane);
    uint32_t base = 0;
    if (lane == 31 && end > 0) base = atomicAdd(&s.mine_count, end);
    if (lane == 0 && above > 0) atomicAdd(&s.above, above);
    uint32_t slot = __shfl_sync(~0u, base, 31) + end - in;
    if (in > 0)
      for_keys([&](uint32_t k, int, int) {
        if ((k >> shift) == (prefix >> shift)) s.mine[slot++] = k;
      });
    meet();

    const uint32_t* all = s.mine;
    uint32_t listed = s.mine_count, earlier = 0;  // keys of all CTAs, of those before this one
    if (ctas > 1) {
      all = s.all;
      uint32_t start = 0;
      uint32_t counts[kMaxCluster];
#pragma unroll
      for (int c = 0; c < kMaxCluster; ++c)
        counts[c] = c < ctas ? load_remote(&s.mine_count, c) : 0;
#pragma unroll
      for (int c = 0; c < kMaxCluster; ++c) {
        if (c == rank) earlier = start;
        for (uint32_t i = tid; i < counts[c]; i += kThreads)
          s.all[start + i] = load_remote(&s.mine[i], c);
        start += counts[c];
      }
      listed = start;
      if (tid < rank) before += load_remote(&s.above, tid);
      __syncthreads();
    }

    // The exact threshold: what is left of its 20 or 8 bits, 10 at a time.
    uint32_t* hist = s.local;
    for (int left = shift; left > 0; hist += kLocalBins) {
      const int low = left > 10 ? 10 : 0;
      for (uint32_t i = tid; i < listed; i += kThreads)
        if (all[i] >> left == prefix >> left)
          atomicAdd(&hist[(all[i] >> low) & (kLocalBins - 1) & ((1u << (left - low)) - 1)], 1);
      __syncthreads();
      sum_groups(hist, kLocalBins, s.local_group);
      __syncthreads();
      if (warp == 0) find_bin(s.found, hist, kLocalBins, s.local_group, need, 1);
      __syncthreads();
      prefix |= s.found.bin << low;
      need -= s.found.above;
      left = low;
    }
    for (uint32_t i = tid; i < earlier; i += kThreads) {
      before += all[i] > prefix;
      before_ties += all[i] == prefix;
    }
  } else if (ctas > 1) {
    // More than kList keys equal the threshold, which is known: count only how many each CTA has.
    uint32_t above = 0, ties = 0;
    for_keys([&](uint32_t k, int, int) {
      above += k > prefix;
      ties += k == prefix;
    });
    above = __reduce_add_sync(~0u, above);
    ties = __reduce_add_sync(~0u, ties);
    if (lane == 0) {
      atomicAdd(&s.above, above);
      atomicAdd(&s.ties, ties);
    }
    meet_cluster();
    if (tid < rank) {
      before = load_remote(&s.above, tid);
      before_ties = load_remote(&s.ties, tid);
    }
  }
  __syncwarp();
  if (ctas > 1)
    cluster_arrive();  // no CTA reads another's memory from here on; the wait is at the end

  // Phase 4: places. The low half counts greater keys, the high half equal ones: a CTA holds fewer
  // than 2^15 keys. Totals of the cluster (fewer than 2^18) are kept apart.
  const uint32_t threshold = prefix;
  uint32_t inside[kVectors], total = 0;  // of this lane's four keys of vector v: end in the warp
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    inside[v] = 0;
    if (v < used) {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        inside[v] += (key[v * 4 + j] > threshold) + (uint32_t{key[v * 4 + j] == threshold} << 16);
    }
  }
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      uint32_t other = __shfl_up_sync(~0u, inside[v], d);
      if (lane >= d) inside[v] += other;
    }
  }
#pragma unroll
  for (int v = 0; v < kVectors; ++v) total += __shfl_sync(~0u, inside[v], 31);
  before = __reduce_add_sync(~0u, before);
  before_ties = __reduce_add_sync(~0u, before_ties);
  if (lane == 0) {
    s.warp_counts[warp] = total;
    // In 16 bits both counts are exact where they matter: places of picks, and so the greater keys
    // before one, are below topk. Ties beyond `need` are only compared.
    s.warp_before[warp] = before;
    s.group[0][warp] = before_ties;
  }
  __syncthreads();
  uint32_t counts = lane < warp ? s.warp_counts[lane] : 0;
  counts = __reduce_add_sync(~0u, counts);
  uint32_t greater = __reduce_add_sync(~0u, lane < kWarps ? s.warp_before[lane] : 0);
  uint32_t ties = __reduce_add_sync(~0u, lane < kWarps ? s.group[0][lane] : 0);
  greater += counts & 0xFFFF;
  ties += counts >> 16;

  // Phase 5: write. Place = greater keys before + kept ties before.
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    if (v < used) {
      uint32_t end = __shfl_sync(~0u, inside[v], 31);
      uint32_t own = inside[v];
      uint32_t previous = __shfl_up_sync(~0u, own, 1);
      uint32_t start = lane > 0 ? previous : 0;
      if (own != start) {
        uint32_t g = greater + (start & 0xFFFF), t = ties + (start >> 16);
        const int at = (first_quad + v * 32) * 4;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          uint32_t k = key[v * 4 + j];
          if (k > threshold) {
            picked[g + min(t, need)] = at + j;
            ++g;
          } else if (k == threshold) {
            if (t < need) picked[g + t] = at + j;
            ++t;
          }
        }
      }
      greater += end & 0xFFFF;
      ties += end >> 16;
    }
  }
  __syncwarp();
  if (ctas > 1) cluster_wait();
}

}  // namespace topk

}  // namespace fathom::cuda
