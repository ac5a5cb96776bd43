// Sampling: a row of logits to a cluster of 8 CTAs, each with its eighth in shared memory.
//
// Top-k and top-p are the same question: which is the last token, in order of preference, before a
// measure (a count, or a weight) reaches an amount. It is answered from the most significant
// digits down, by histograms of the measure merged over the cluster. Everything is integer, so no
// order of summation exists that could change a token.
//
// Numerics
//   in     logits f32, parameters per row; rules of numerics/sampling.h, evaluated per token
//   order  higher logit first (-0 equals +0), then lower id: a 64-bit key, greater is preferred
//   out    the host Sampler's token, bit for bit; kBrokenLogits where it would fail the request
#include "kernels/cuda/prim/barrier.h"
#include "kernels/cuda/sample/sample.h"

namespace fathom::cuda {
namespace sample {

constexpr int kThreads = 1024, kWarps = kThreads / 32;
constexpr int kCluster = 8;
constexpr int kBins = 2048, kGroups = 32, kRun = kBins / kGroups;
// Sums of weights (at most 2^40) are built by shared-memory atomics in parts of 17 bits, each in a
// word of 32 bits: a CTA adds at most 2^15 tokens, an eighth of the greatest vocabulary.
constexpr int kParts = 3, kPartBits = 17;
constexpr int kIdBits = 18;
constexpr uint32_t kNothing = ~0u;
static_assert(kMaxSampleVocab <= 1 << kIdBits && kMaxSampleVocab / kCluster <= 1 << 15);

struct Shared {
  uint32_t part[kParts * kBins];
  uint64_t sum[2][kBins];
  uint64_t group[2][kGroups];
  uint64_t best;   // preference of this CTA's greatest logit
  uint64_t total;  // weight of what this CTA kept
  uint32_t broken;
  uint64_t found_above, found_need;
  uint32_t found_bin;
  uint32_t listed;  // tokens of the bin found first
  uint64_t warp_sum[kWarps];
};

constexpr size_t shared_bytes_for(int64_t vocab) {  // the logits of a CTA, and a list of them
  return sizeof(Shared) + static_cast<size_t>((vocab + kCluster - 1) / kCluster) *
                              (sizeof(float) + sizeof(uint16_t));
}
static_assert(shared_bytes_for(kMaxSampleVocab) <= 227 * 1024);

__device__ __forceinline__ uint64_t load_remote(const uint64_t* p, uint32_t rank) {
  uint64_t v;
  asm volatile("ld.shared::cluster.u64 %0, [%1];" : "=l"(v) : "r"(cluster_address(p, rank)));
  return v;
}
__device__ __forceinline__ uint32_t load_remote(const uint32_t* p, uint32_t rank) {
  uint32_t v;
  asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(v) : "r"(cluster_address(p, rank)));
  return v;
}

// Lanes may have diverged, and the barrier needs whole warps.
__device__ __forceinline__ void meet() {
  __syncwarp();
  cluster_sync();
}

template <class T>
__device__ __forceinline__ T cluster_total(const T* p) {
  T parts[kCluster], sum = 0;
#pragma unroll
  for (int c = 0; c < kCluster; ++c) parts[c] = load_remote(p, c);
#pragma unroll
  for (int c = 0; c < kCluster; ++c) sum += parts[c];
  return sum;
}

__device__ __forceinline__ uint64_t warp_sum(uint64_t v) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(~0u, v, d);
  return v;
}

__device__ __forceinline__ uint64_t suffix_sum(uint64_t v, int lane) {
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    uint64_t other = __shfl_down_sync(~0u, v, d);
    if (lane + d < 32) v += other;
  }
  return v;
}

// Greater is preferred.
__device__ __forceinline__ uint64_t preference(float logit, uint32_t id) {
  return (uint64_t{order_key(logit)} << 32) | (0xFFFFFFFFu - id);
}

// The row and what has been decided about it so far, the same in every CTA.
struct Row {
  const float* logits;  // this CTA's, in shared memory
  uint32_t first, count;
  float top, inverse;
  uint64_t cut;    // tokens of lower preference are out
  uint64_t floor;  // and so are those of less weight

  __device__ uint64_t weight(uint32_t i) const {
    uint64_t w = sample_weight(logits[i], top, inverse);
    return w >= floor && preference(logits[i], first + i) >= cut ? w : 0;
  }
  // Digits of the preference, most significant first. Digit 0 never increases as the preference
  // falls, and spreads the weights evenly over the bins; it is a coarser form of digits 1 to 3.
  __device__ uint32_t digit(int level, uint32_t i) const {
    uint32_t key = order_key(logits[i]), low = 0xFFFFFFFFu - (first + i);
    switch (level) {
      case 0: {
        float x = mul_rounded(add_rounded(logits[i], -top), inverse);  // (-27.8, 0]
        return kBins - 1 - min(static_cast<int>(-x * 73.0f), kBins - 1);
      }
      case 1:
        return key >> 21;
      case 2:
        return (key >> 10) & 2047;
      case 3:
        return key & 1023;
      case 4:
        return (low >> 9) & 511;
      default:
        return low & 511;
    }
  }
};
constexpr int kLevels = 6;

// Finds the bin in which the measure, summed from above, reaches need_of(its total). If the need is
// above the total it finds kNothing. Called by one warp.
template <class NeedOf>
__device__ void find_bin(Shared& s, int buffer, NeedOf need_of) {
  const int lane = threadIdx.x % 32;
  uint64_t own = cluster_total(&s.group[buffer][lane]);
  uint64_t reached = suffix_sum(own, lane);
  const uint64_t total = __shfl_sync(~0u, reached, 0), need = need_of(total);
  if (lane == 0) s.found_need = need;
  if (need > total) {
    if (lane == 0) s.found_bin = kNothing;
    return;
  }
  int g = 31 - __clz(__ballot_sync(~0u, reached >= need));
  uint64_t above = __shfl_sync(~0u, reached - own, g);

  const uint64_t* bins = s.sum[buffer] + g * kRun;
  uint64_t low = cluster_total(bins + 2 * lane), high = cluster_total(bins + 2 * lane + 1);
  reached = suffix_sum(low + high, lane) + above;
  int l = 31 - __clz(__ballot_sync(~0u, reached >= need));
  if (lane == l) {
    above = reached - low - high;
    bool upper = above + high >= need;
    s.found_bin = g * kRun + 2 * lane + upper;
    s.found_above = upper ? above : above + high;
  }
}

// The preference of the token at which the measure reaches need_of(its total), 0 if it does not.
// The first two digits are counted over all tokens; those in the first digit's bin are listed, and
// later digits look at the list alone. `round` runs on between calls: it alternates buffers that
// other CTAs may still be reading.
template <class NeedOf>
__device__ uint64_t find_cut(Shared& s, uint16_t* list, const Row& row, bool by_count,
                             NeedOf need_of, int& round) {
  uint32_t digits[kLevels];
  uint64_t need = 0;
  for (int level = 0; level < kLevels; ++level, ++round) {
    const int buffer = round & 1;
    for (int i = threadIdx.x; i < kParts * kBins; i += kThreads) s.part[i] = 0;
    if (level == 0 && threadIdx.x == 0) s.listed = 0;
    __syncthreads();
    auto measure = [&](uint32_t i) {
      uint64_t w = row.weight(i);
      if (w == 0) return;
      if (by_count) w = 1;
      uint32_t* part = s.part + row.digit(level, i);
#pragma unroll
      for (int j = 0; j < kParts; ++j) {
        uint32_t value = static_cast<uint32_t>(w >> (j * kPartBits)) & ((1u << kPartBits) - 1);
        if (value) atomicAdd(part + j * kBins, value);
      }
    };
    if (level < 2) {
      for (uint32_t i = threadIdx.x; i < row.count; i += kThreads) {
        if (level == 1) {
          if (row.digit(0, i) != digits[0]) continue;
          list[atomicAdd(&s.listed, 1)] = static_cast<uint16_t>(i);
        }
        measure(i);
      }
    } else {
      for (uint32_t at = threadIdx.x; at < s.listed; at += kThreads) {
        const uint32_t i = list[at];
        bool active = true;
        for (int above = 1; above < level; ++above)
          active = active && row.digit(above, i) == digits[above];
        if (active) measure(i);
      }
    }
    __syncthreads();
    for (int g = threadIdx.x / 32; g < kGroups; g += kWarps) {
      uint64_t sum = 0;
      for (int i = threadIdx.x % 32; i < kRun; i += 32) {
        uint64_t v = 0;
        for (int j = 0; j < kParts; ++j)
          v += uint64_t{s.part[j * kBins + g * kRun + i]} << (j * kPartBits);
        s.sum[buffer][g * kRun + i] = v;
        sum += v;
      }
      sum = warp_sum(sum);
      if (threadIdx.x % 32 == 0) s.group[buffer][g] = sum;
    }
    meet();
    if (threadIdx.x < 32) {
      if (level == 0)
        find_bin(s, buffer, need_of);
      else
        find_bin(s, buffer, [&](uint64_t) { return need; });
    }
    __syncthreads();
    if (level == 0) {
      need = s.found_need;
      if (s.found_bin == kNothing) {
        ++round;
        return 0;
      }
    }
    digits[level] = s.found_bin;
    need -= s.found_above;
  }
  uint64_t key = (digits[1] << 21) | (digits[2] << 10) | digits[3];
  uint32_t low = 0xFFFFFFFFu << kIdBits | digits[4] << 9 | digits[5];
  return key << 32 | low;
}

// Weight of what the whole cluster kept, and of what the CTAs before this one did.
struct Totals {
  uint64_t all, before, own;
};
__device__ Totals totals(Shared& s, const Row& row) {
  uint64_t sum = 0;
  for (uint32_t i = threadIdx.x; i < row.count; i += kThreads) sum += row.weight(i);
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) s.warp_sum[threadIdx.x / 32] = sum;
  __syncthreads();
  Totals t{0, 0, 0};
  for (int w = 0; w < kWarps; ++w) t.own += s.warp_sum[w];
  if (threadIdx.x == 0) s.total = t.own;
  meet();
  const int rank = static_cast<int>(cluster_rank());
  for (int c = 0; c < kCluster; ++c) {
    uint64_t v = load_remote(&s.total, c);
    t.all += v;
    if (c < rank) t.before += v;
  }
  meet();  // before `total` and `warp_sum` are written again
  return t;
}

__global__ void __launch_bounds__(kThreads)
    sample_kernel(const float* logits, int64_t stride, int64_t vocab, const SampleRow* rows,
                  int32_t* ids) {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  Shared& s = *reinterpret_cast<Shared*>(shared_bytes);
  float* slice = reinterpret_cast<float*>(shared_bytes + sizeof(Shared));
  const uint32_t each = static_cast<uint32_t>((vocab + kCluster - 1) / kCluster);
  uint16_t* list = reinterpret_cast<uint16_t*>(slice + each);
  const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
  const int64_t index = blockIdx.x / kCluster;
  const uint32_t rank = cluster_rank();

  // Phase 1: the greatest logit.
  Row row{slice, rank * each, 0, 0, 0, 0, 0};
  if (row.first < vocab) row.count = min(each, static_cast<uint32_t>(vocab) - row.first);
  if (tid == 0) s.best = s.broken = 0;
  pdl_wait();
  pdl_trigger();
  __syncthreads();
  {
    const float* in = logits + index * stride + row.first;
    uint64_t best = 0;
    bool broken = false;
#pragma unroll 8
    for (uint32_t i = tid; i < row.count; i += kThreads) {
      float x = in[i];
      slice[i] = x;
      broken = broken || !(x < INFINITY);
      best = max(best, preference(x, row.first + i));
    }
    if (broken) s.broken = 1;
#pragma unroll
    for (int d = 16; d > 0; d /= 2) best = max(best, __shfl_xor_sync(~0u, best, d));
    if (lane == 0) atomicMax(reinterpret_cast<unsigned long long*>(&s.best), best);
  }
  meet();
  uint64_t best = 0;
  for (int c = 0; c < kCluster; ++c) best = max(best, load_remote(&s.best, c));
  const bool broken = cluster_total(&s.broken) != 0;
  const uint32_t best_key = static_cast<uint32_t>(best >> 32);
  row.top = float_of(best_key & 0x80000000u ? best_key ^ 0x80000000u : ~best_key);
  const SamplingParams params = rows[index].params;
  row.inverse = __fdiv_rn(1.0f, params.temperature);
  const bool greedy = params.temperature == 0 || isinf(row.inverse);
  if (broken || row.top == -INFINITY || greedy) {
    if (rank == 0 && tid == 0)
      ids[index] = broken || row.top == -INFINITY
                       ? kBrokenLogits
                       : static_cast<int32_t>(0xFFFFFFFFu - static_cast<uint32_t>(best));
    meet();  // a CTA may not leave while its shared memory is read
    return;
  }

  // Phase 2: the filters.
  int round = 0;
  if (params.top_k > 0 && params.top_k < vocab)
    row.cut = find_cut(
        s, list, row, true, [&](uint64_t) { return static_cast<uint64_t>(params.top_k); }, round);
  if (params.top_p < 1)
    row.cut = find_cut(
        s, list, row, false, [&](uint64_t total) { return nucleus_weight(total, params.top_p); },
        round);
  if (params.min_p > 0) row.floor = least_weight(uint64_t{1} << kWeightBits, params.min_p);

  // Phase 3: draw. Warps own runs of ids, so that the running sum goes up with the id.
  uint64_t drawn;
  {
    Totals t = totals(s, row);
    drawn = draw_below(random_bits(params.seed, rows[index].position), t.all);
    const bool mine = drawn >= t.before && drawn - t.before < t.own;
    meet();  // the last access to other CTAs was in totals()
    if (!mine) return;
    drawn -= t.before;
  }
  const uint32_t run = (row.count + kThreads - 1) / kThreads * 32;
  const uint32_t begin = min(warp * run, row.count), end = min(begin + run, row.count);
  uint64_t sum = 0;
  for (uint32_t i = begin + lane; i < end; i += 32) sum += row.weight(i);
  sum = warp_sum(sum);
  if (lane == 0) s.warp_sum[warp] = sum;
  __syncthreads();
  uint64_t before = 0;
  for (int w = 0; w < warp; ++w) before += s.warp_sum[w];
  if (drawn < before || drawn - before >= sum) return;
  drawn -= before;
  for (uint32_t i = begin; i < end; i += 32) {
    uint64_t w = i + lane < end ? row.weight(i + lane) : 0;
    uint64_t reached = w;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      uint64_t other = __shfl_up_sync(~0u, reached, d);
      if (lane >= d) reached += other;
    }
    uint32_t past = __ballot_sync(~0u, reached > drawn);
    if (past) {
      if (lane == 0) ids[index] = static_cast<int32_t>(row.first + i + __ffs(past) - 1);
      return;
    }
    drawn -= __shfl_sync(~0u, reached, 31);
  }
}

__global__ void carry_kernel(int32_t* ids, const int32_t* rows, const int32_t* drawn, int tokens) {
  const int t = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  pdl_wait();
  if (t < tokens && rows[t] >= 0) ids[t] = max(drawn[rows[t]], 0);
}

}  // namespace sample

void carry_drawn_ids(int32_t* ids, const int32_t* rows, const int32_t* drawn, int tokens,
                     const Launch& l) {
  constexpr unsigned kBlock = 256;
  launch_kernel(l, sample::carry_kernel,
                dim3((static_cast<unsigned>(tokens) + kBlock - 1) / kBlock), dim3(kBlock), 0, 1,
                ids, rows, drawn, tokens);
}

void sample_tokens(const float* logits, int64_t stride, int rows, int64_t vocab,
                   const SampleRow* rows_dev, int32_t* ids, const Launch& l) {
  if (rows == 0) return;
  require(vocab >= 1 && vocab <= kMaxSampleVocab, "sampling: vocabularies up to 229376 tokens");
  require(stride >= vocab, "sampling: rows of logits overlap");
  launch_kernel(l, sample::sample_kernel, dim3(static_cast<unsigned>(rows) * sample::kCluster),
                dim3(sample::kThreads), sample::shared_bytes_for(vocab), sample::kCluster, logits,
                stride, vocab, rows_dev, ids);
}

}  // namespace fathom::cuda
