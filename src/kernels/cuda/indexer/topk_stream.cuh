// Exact top-k of many or long float rows: one row to a CTA, one pass over it.
//
// A sample of the row gives a pivot that slightly more than topk scores reach, with high
// probability. The pass lists those and looks at nothing else; the exact threshold is then found
// among a few thousand listed keys. Both searches count scores in bins of equal width first: in
// bins of leading bits most scores of a row would meet in a few words of shared memory. Luck
// decides the time only: when too few or too many scores reach the pivot (many equal scores, or a
// row unlike its sample), the threshold is found by counting digits over the whole row instead.
//
// Numerics
//   in    scores f32, compared as order_key (numerics/selection.h); against the pivot as floats,
//         which is the same order: -0 equals +0
//   ties  of the keys equal to the threshold the lowest positions are kept
//   picks are collected as a bitmap over positions: their order does not depend on who found them
#pragma once

#include <cstdint>

#include "kernels/cuda/indexer/topk.h"
#include "kernels/cuda/indexer/topk_bins.cuh"
#include "numerics/selection.h"

namespace fathom::cuda::topk {

inline constexpr int kSample = 4096;
inline constexpr uint32_t kLowestKey = 0x007FFFFFu;  // of -inf
inline constexpr uint32_t kFew = 256;                // keys of one bin that are ranked directly

// Threads of a CTA, CTAs an SM has room for, and the longest rows it takes. Short rows are many and
// spend their time between barriers: a third CTA has something to do meanwhile.
template <int kThreads_, int kResident_, int64_t kContext_>
struct StreamShape {
  static constexpr int kThreads = kThreads_, kWarps = kThreads / 32;
  static constexpr int kResident = kResident_;
  static constexpr int64_t kContext = kContext_;
  static constexpr int kWords = kContext / 32;  // of a bitmap over positions
  // Candidates in all; rows up to here are listed whole.
  static constexpr int kListed = kResident == 3 ? 6144 : 8192;
};
using ShortRows = StreamShape<512, 3, 65536>;
using LongRows = StreamShape<512, 2, kMaxTopkContext>;
using FewRows = StreamShape<1024, 1, kMaxTopkContext>;

template <class S>
struct StreamShared {
  static constexpr int kWarps = S::kWarps, kPerWarp = S::kListed / kWarps;
  uint32_t bits[S::kWords];  // picked positions
  union {
    uint32_t hist[kBins];
    uint32_t ties[S::kWords];  // positions of keys equal to the threshold
  };
  union {
    uint2 listed[kWarps][kPerWarp];  // (bits of the score, position): each warp's own
    int32_t picks[kMaxTopk];
  };
  uint32_t group[kGroups];
  uint32_t warp_count[kWarps];
  uint32_t warp_low[kWarps], warp_high[kWarps];
  uint32_t few[kFew], few_count;
  uint32_t threshold, need, count;  // of the few
  Found found;
};

// The float of `key`; -inf for keys up to that of -inf.
__device__ __forceinline__ float float_of_key(uint32_t key) {
  if (key <= kLowestKey) return -INFINITY;
  return float_of(key & 0x80000000u ? key ^ 0x80000000u : ~key);
}

// Finds the `need`-th key from above among those that `each(f)` passes to f, by 12, 12 and 8 bits.
// On return, keys above the prefix's digits are picked, and `need` of the `count` keys that have
// these digits; `enough(shift, need, count)` may end the search early. Called by all threads.
struct Threshold {
  uint32_t prefix;
  int shift;  // bits of the prefix that are not decided (zero in it)
  uint32_t need, count;
};
template <class Shared, class Each, class Enough>
__device__ __forceinline__ Threshold find_threshold(Shared& s, uint32_t need, Each each,
                                                    Enough enough) {
  uint32_t prefix = 0;
  for (int shift = 20, above = 32;; above = shift, shift = shift == 20 ? 8 : 0) {
    const int bins = shift == 0 ? 256 : kBins;
    for (int i = threadIdx.x; i < bins; i += blockDim.x) s.hist[i] = 0;
    __syncthreads();
    each([&](uint32_t key) {
      if (above == 32 || (key ^ prefix) >> (above & 31) == 0)
        atomicAdd(&s.hist[(key >> shift) & (bins - 1)], 1);
    });
    __syncthreads();
    sum_groups(s.hist, bins, s.group);
    __syncthreads();
    if (threadIdx.x < 32) find_bin(s.found, s.hist, bins, s.group, need, 1);
    __syncthreads();
    const Found found = s.found;
    prefix |= found.bin << shift;
    need -= found.above;
    if (shift == 0 || enough(shift, need, found.count)) return {prefix, shift, need, found.count};
  }
}

// The least and the greatest key that `each(f)` passes to f. Called by all threads; a barrier must
// lie between two calls.
struct KeyRange {
  uint32_t low, high;
};
template <class Shared, class Each>
__device__ __forceinline__ KeyRange key_range(Shared& s, Each each) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  KeyRange r{~0u, 0};
  each([&](uint32_t key) {
    r.low = min(r.low, key);
    r.high = max(r.high, key);
  });
  r.low = __reduce_min_sync(~0u, r.low);
  r.high = __reduce_max_sync(~0u, r.high);
  if (lane == 0) {
    s.warp_low[warp] = r.low;
    s.warp_high[warp] = r.high;
  }
  __syncthreads();
  const int other = lane % Shared::kWarps;
  return {__reduce_min_sync(~0u, s.warp_low[other]), __reduce_max_sync(~0u, s.warp_high[other])};
}

// Bins of equal width between two keys' scores. The bin of a key never falls as the key rises, so
// that bins order keys exactly whatever rounding does. Not usable where the width is no number.
class EvenBins {
 public:
  __device__ __forceinline__ explicit EvenBins(const KeyRange& r)
      : low_(float_of_key(r.low)),
        scale_(static_cast<float>(kBins - 1) / (float_of_key(r.high) - low_)) {}
  __device__ __forceinline__ bool usable() const { return scale_ > 0.0f && scale_ < INFINITY; }
  __device__ __forceinline__ uint32_t of(uint32_t key) const {
    return min(static_cast<int>((float_of_key(key) - low_) * scale_), kBins - 1);
  }

 private:
  float low_, scale_;
};

// Finds the bin of the `need`-th key from above among those that `each(f)` passes to f. Called by
// all threads.
template <class Shared, class Each>
__device__ __forceinline__ Found find_even_bin(Shared& s, const EvenBins& bins, uint32_t need,
                                               Each each) {
  for (int i = threadIdx.x; i < kBins; i += blockDim.x) s.hist[i] = 0;
  __syncthreads();
  each([&](uint32_t key) { atomicAdd(&s.hist[bins.of(key)], 1); });
  __syncthreads();
  sum_groups(s.hist, kBins, s.group);
  __syncthreads();
  if (threadIdx.x < 32) find_bin(s.found, s.hist, kBins, s.group, need, 1);
  __syncthreads();
  return s.found;
}

// A key of the sample, given by `each`, that `need` or slightly more of its keys reach.
template <class Shared, class Each>
__device__ __forceinline__ uint32_t find_pivot(Shared& s, uint32_t need, Each each) {
  const uint32_t fine = max(8u, need / 8);  // keys of the sample that may be taken in excess
  const EvenBins bins(key_range(s, each));
  if (bins.usable()) {
    const Found found = find_even_bin(s, bins, need, each);
    if (found.above + found.count <= need + fine)
      return key_range(s,
                       [&](auto&& f) {
                         each([&](uint32_t key) {
                           if (bins.of(key) >= found.bin) f(key);
                         });
                       })
          .low;
  }
  return find_threshold(s, need, each,
                        [&](int, uint32_t rest, uint32_t count) { return count - rest <= fine; })
      .prefix;
}

// The exact threshold of the `need` greatest keys among those that `each` gives.
template <class Shared, class Each>
__device__ __forceinline__ Threshold find_listed_threshold(Shared& s, uint32_t need, Each each) {
  const EvenBins bins(key_range(s, each));
  if (bins.usable()) {
    const Found found = find_even_bin(s, bins, need, each);
    if (found.count <= kFew) {
      each([&](uint32_t key) {
        if (bins.of(key) == found.bin) s.few[atomicAdd(&s.few_count, 1)] = key;
      });
      __syncthreads();
      // Equal keys have equal ranks and write the same.
      if (threadIdx.x < found.count) {
        const uint32_t key = s.few[threadIdx.x], wanted = need - found.above;
        uint32_t greater = 0, equal = 0;
        for (uint32_t i = 0; i < found.count; ++i) {
          greater += s.few[i] > key;
          equal += s.few[i] == key;
        }
        if (greater < wanted && greater + equal >= wanted) {
          s.threshold = key;
          s.need = wanted - greater;
          s.count = equal;
        }
      }
      __syncthreads();
      return {s.threshold, 0, s.need, s.count};
    }
  }
  return find_threshold(s, need, each,
                        [](int, uint32_t rest, uint32_t count) { return rest == count; });
}

// Exclusive sum over the CTA's threads. Contains a barrier.
template <class Shared>
__device__ __forceinline__ uint32_t count_before(Shared& s, uint32_t v) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t end = prefix_sum(v, lane);
  __syncthreads();
  if (lane == 31) s.warp_count[warp] = end;
  __syncthreads();
  uint32_t earlier = lane < warp ? s.warp_count[lane] : 0;
  return __reduce_add_sync(~0u, earlier) + end - v;
}

// Four scores of a row; what lies past it is NaN, which reaches no pivot.
__device__ __forceinline__ float4 load_quad(const float* scores, int quad, int n) {
  float4 v = {NAN, NAN, NAN, NAN};
  if (quad * 4 < n) {
    v = reinterpret_cast<const float4*>(scores)[quad];
    if (quad * 4 + 3 >= n) {
      v.w = NAN;
      if (quad * 4 + 2 >= n) v.z = NAN;
      if (quad * 4 + 1 >= n) v.y = NAN;
    }
  }
  return v;
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, S::kResident) stream_kernel(TopkParams p) {
  using Shared = StreamShared<S>;
  constexpr int kThreads = S::kThreads, kWarps = S::kWarps, kPerWarp = Shared::kPerWarp;
  constexpr int kAhead = 4;  // loads in flight a thread
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  Shared& s = *reinterpret_cast<Shared*>(shared_bytes);
  const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
  const int row = blockIdx.x;
  int32_t* picked = p.picked + static_cast<int64_t>(row) * p.topk;
  const float* scores = p.scores + static_cast<int64_t>(row) * p.stride;
  if (tid == 0) s.few_count = 0;
  pdl_wait();
  pdl_trigger();

  const int n = min(p.positions[row] + 1, static_cast<int>(p.max_context));
  if (n <= p.topk) {
    for (int i = tid; i < p.topk; i += kThreads) picked[i] = i < n ? i : -1;
    return;
  }
  const int words = (n + 31) / 32, blocks = (n + 127) / 128;

  // Phase 1: the pivot. Sampled are 512 sectors of 8 scores, evenly spread over the row.
  float pivot = -INFINITY;
  if (n > S::kListed) {
    constexpr int kQuads = kSample / 4 / kThreads;
    uint32_t key[kQuads * 4];
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      const int64_t sector = i * (kThreads / 2) + tid / 2;
      const int quad = static_cast<int>(sector * (n / 8) / (kSample / 8)) * 2 + tid % 2;
      const float4 v = reinterpret_cast<const float4*>(scores)[quad];
      key[4 * i] = order_key(v.x);
      key[4 * i + 1] = order_key(v.y);
      key[4 * i + 2] = order_key(v.z);
      key[4 * i + 3] = order_key(v.w);
    }
    // Expected rank of the topk-th in the sample, and four standard deviations to be safe.
    const float rank = static_cast<float>(p.topk) * kSample / static_cast<float>(n);
    const uint32_t need = static_cast<uint32_t>(rank + 4.0f * sqrtf(rank) + 4.0f);
    pivot = float_of_key(find_pivot(s, need, [&](auto&& f) {
#pragma unroll
      for (uint32_t k : key) f(k);
    }));
  }
  for (int i = tid; i < words; i += kThreads) s.bits[i] = 0;

  // Phase 2: the pass. A warp takes every kWarps-th block of 128 scores and lists those that reach
  // the pivot. `count` runs on past the list's end, so that an overflow is seen.
  uint32_t count = 0;
  {
    const uint32_t lower = (1u << lane) - 1;
    auto take = [&](const float4& v, int quad) {
      const float value[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const bool in = value[j] >= pivot;
        const uint32_t who = __ballot_sync(~0u, in);
        const uint32_t slot = count + __popc(who & lower);
        if (in && slot < kPerWarp)
          s.listed[warp][slot] = make_uint2(bits_of(value[j]), static_cast<uint32_t>(quad * 4 + j));
        count += __popc(who);
      }
    };
    for (int block = warp; block < blocks; block += kWarps * kAhead) {
      float4 v[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i)
        v[i] = load_quad(scores, (block + i * kWarps) * 32 + lane, n);
#pragma unroll
      for (int i = 0; i < kAhead; ++i) take(v[i], (block + i * kWarps) * 32 + lane);
    }
  }
  if (lane == 0) s.warp_count[warp] = count;
  const bool over = __syncthreads_or(count > kPerWarp);
  uint32_t reached = __reduce_add_sync(~0u, lane < kWarps ? s.warp_count[lane] : 0);
  const bool listed = !over && reached >= static_cast<uint32_t>(p.topk);

  // Phase 3: the threshold, and the bits of what is above it, or equal to it.
  Threshold t;
  if (listed) {
    t = find_listed_threshold(s, static_cast<uint32_t>(p.topk), [&](auto&& f) {
      for (uint32_t i = lane; i < count; i += 32) f(order_key(float_of(s.listed[warp][i].x)));
    });
    const bool whole = t.need == t.count;
    if (!whole) {
      for (int i = tid; i < words; i += kThreads) s.ties[i] = 0;
      __syncthreads();
    }
    for (uint32_t i = lane; i < count; i += 32) {
      const uint2 c = s.listed[warp][i];
      const uint32_t key = order_key(float_of(c.x));
      uint32_t* bits = whole || key > t.prefix ? s.bits : s.ties;
      if (key >= t.prefix) atomicOr(&bits[c.y / 32], 1u << (c.y % 32));
    }
  } else {
    auto each = [&](auto&& f) {
      for (int quad = tid; quad * 4 < n; quad += kThreads) {
        const float4 v = reinterpret_cast<const float4*>(scores)[quad];
        f(order_key(v.x));
        if (quad * 4 + 1 < n) f(order_key(v.y));
        if (quad * 4 + 2 < n) f(order_key(v.z));
        if (quad * 4 + 3 < n) f(order_key(v.w));
      }
    };
    t = find_threshold(s, static_cast<uint32_t>(p.topk), each,
                       [](int, uint32_t rest, uint32_t equal) { return rest == equal; });
    const bool whole = t.need == t.count;
    for (int block = warp; block < blocks; block += kWarps) {
      const int quad = block * 32 + lane;
      const float4 v = load_quad(scores, quad, n);
      const float value[4] = {v.x, v.y, v.z, v.w};
      // A lane gives four bits; eight lanes make a word. Positions past the row are NaN, whose key
      // is the greatest, so they are excluded here.
      uint32_t above = 0, equal = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (quad * 4 + j < n) {
          const uint32_t key = order_key(value[j]);
          above |= uint32_t{whole ? key >= t.prefix : key > t.prefix} << j;
          equal |= uint32_t{!whole && key == t.prefix} << j;
        }
      above <<= lane % 8 * 4;
      equal <<= lane % 8 * 4;
#pragma unroll
      for (int d = 1; d < 8; d *= 2) {
        above |= __shfl_xor_sync(~0u, above, d);
        equal |= __shfl_xor_sync(~0u, equal, d);
      }
      const int word = block * 4 + lane / 8;
      if (lane % 8 == 0 && word < words) {
        s.bits[word] = above;
        if (!whole) s.ties[word] = equal;
      }
    }
  }
  __syncthreads();

  // Phase 4: of more ties than are needed the lowest positions stay. A thread owns a run of words.
  const int run = (words + kThreads - 1) / kThreads;
  const int first = min(tid * run, words), last = min(first + run, words);
  if (t.need != t.count) {
    uint32_t own = 0;
    for (int w = first; w < last; ++w) own += __popc(s.ties[w]);
    uint32_t before = count_before(s, own);
    for (int w = first; w < last && before < t.need; ++w)
      for (uint32_t rest = s.ties[w]; rest != 0 && before < t.need; rest &= rest - 1, ++before)
        s.bits[w] |= rest & -rest;
  }

  // Phase 5: bits to ascending positions, through shared memory so that the stores are whole lines.
  uint32_t own = 0;
  for (int w = first; w < last; ++w) own += __popc(s.bits[w]);
  uint32_t place = count_before(s, own);
  for (int w = first; w < last; ++w)
    for (uint32_t rest = s.bits[w]; rest != 0; rest &= rest - 1)
      s.picks[place++] = w * 32 + __ffs(rest) - 1;
  __syncthreads();
  for (int i = tid; i < p.topk; i += kThreads) picked[i] = s.picks[i];
}

}  // namespace fathom::cuda::topk
