// Sampling: a row of logits to a cluster of 8 CTAs. As many clusters as a step has rows fit on the
// GPU at the same time, so logits are read again (from L2) rather than kept.
//
// Top-k and top-p are the same question: which is the last token, in order of preference, before a
// measure (a count, or a weight) reaches an amount. One histogram of the measure, merged over the
// cluster, finds a narrow range of logits; the few tokens in it are exchanged and ranked. Should
// there be more than a few, their digits are counted the same way, from the most significant down.
// What can still be kept is listed, and from there on nothing else is looked at. Everything is
// integer, so no order of summation exists that could change a token.
//
// Numerics
//   in     logits f32, parameters per row; rules of numerics/sampling.h, evaluated per token
//   order  higher logit first (-0 equals +0), then lower id: a 50-bit key, greater is preferred
//   out    the host Sampler's token, bit for bit; kBrokenLogits where it would fail the request
#include "kernels/cuda/sample/sample_cut.cuh"

namespace fathom::cuda {
namespace sample {

// Few tokens are left: each finds its place among them. Otherwise sums are kept by run.
__device__ __forceinline__ bool ranked(const Shared& s, const Row& row) {
  return row.listed && s.listed <= kRanked;
}

__device__ __forceinline__ void weigh_four(const Row& row, uint32_t i, uint64_t (&w)[4]) {
  const float4 v = load_four(row, i);
  w[0] = row.weight(i, v.x);
  w[1] = row.weight(i + 1, v.y);
  w[2] = row.weight(i + 2, v.z);
  w[3] = row.weight(i + 3, v.w);
}

// Weight of what the whole cluster kept, and of what the CTAs before this one did.
struct Totals {
  uint64_t all, before, own;
};
__device__ Totals totals(Shared& s, const Row& row) {
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  uint64_t sum = 0;
  if (ranked(s, row)) {
    for_tokens<1>(s, row, [&](uint32_t i, float logit) { sum += row.weight(i, logit); });
    sum = warp_sum(sum);
  } else {
    for (uint32_t run = warp; run * kRunTokens < row.count; run += kWarps) {
      uint64_t w[4];
      weigh_four(row, run * kRunTokens + lane * 4, w);
      const uint64_t own = warp_sum(w[0] + w[1] + w[2] + w[3]);
      if (lane == 0) s.run[run] = own;
      sum += own;
    }
  }
  if (lane == 0) s.warp_sum[warp] = sum;
  __syncthreads();
  Totals t{0, 0, 0};
  for (int w = 0; w < kWarps; ++w) t.own += s.warp_sum[w];
  if (threadIdx.x == 0) s.total = t.own;
  meet_cluster();
  const int rank = static_cast<int>(cluster_rank());
  for (int c = 0; c < kCluster; ++c) {
    uint64_t v = load_remote(&s.total, c);
    t.all += v;
    if (c < rank) t.before += v;
  }
  meet_cluster();  // before a CTA leaves whose `total` is read
  return t;
}

// The token of this CTA at which the running sum of weights, which goes up with the id, exceeds
// `drawn`: one thread writes it to `id`. After totals().
__device__ void pick(Shared& s, const Row& row, uint64_t drawn, int32_t* id) {
  const uint32_t lane = threadIdx.x % 32;
  if (ranked(s, row)) {
    for (uint32_t at = threadIdx.x; at < s.listed; at += kThreads) {
      const uint32_t i = s.list[at];
      s.weighed[at] = {row.weight(i, row.logits[i]), i};
    }
    __syncthreads();
    for (uint32_t at = threadIdx.x; at < s.listed; at += kThreads) {
      const Weighed own = s.weighed[at];
      uint64_t before = 0;
      for (uint32_t i = 0; i < s.listed; ++i)
        before += s.weighed[i].token < own.token ? s.weighed[i].weight : 0;
      if (drawn >= before && drawn - before < own.weight)
        *id = static_cast<int32_t>(row.first + own.token);
    }
    return;
  }
  if (threadIdx.x >= 32) return;
  // The warp walks over the runs, then over the tokens of the one that holds the token.
  auto scan = [&](uint64_t v) {  // inclusive, over lanes
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      uint64_t other = __shfl_up_sync(~0u, v, d);
      if (lane >= static_cast<uint32_t>(d)) v += other;
    }
    return v;
  };
  const uint32_t runs = (row.count + kRunTokens - 1) / kRunTokens;
  for (uint32_t begin = 0; begin < runs; begin += 32) {
    const uint64_t own = begin + lane < runs ? s.run[begin + lane] : 0;
    const uint64_t reached = scan(own);
    const uint32_t past = __ballot_sync(~0u, reached > drawn);
    if (past == 0) {
      drawn -= __shfl_sync(~0u, reached, 31);
      continue;
    }
    const int which = __ffs(past) - 1;
    drawn -= __shfl_sync(~0u, reached - own, which);
    const uint32_t first = (begin + which) * kRunTokens + lane * 4;
    uint64_t w[4];
    weigh_four(row, first, w);
    const uint64_t sum = w[0] + w[1] + w[2] + w[3], upto = scan(sum);
    uint64_t before = upto - sum;
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) {
      if (drawn >= before && drawn - before < w[j])
        *id = static_cast<int32_t>(row.first + first + j);
      before += w[j];
    }
    return;
  }
}

__global__ void __launch_bounds__(kThreads, kResident)
    sample_kernel(const float* logits, int64_t stride, int64_t vocab, const SampleRow* rows,
                  int32_t* ids) {
  __shared__ Shared s;
  const uint32_t each = static_cast<uint32_t>((vocab + kCluster - 1) / kCluster);
  const int64_t index = blockIdx.x / kCluster;
  const uint32_t rank = cluster_rank();
  Row row{logits + index * stride + rank * each, rank * each, 0, false};
  row.aligned = reinterpret_cast<uintptr_t>(row.logits) % sizeof(float4) == 0;
  if (row.first < vocab) row.count = min(each, static_cast<uint32_t>(vocab) - row.first);
  if (threadIdx.x == 0) s.best = s.broken = 0;
  pdl_wait();
  pdl_trigger();
  __syncthreads();

  // Phase 1: the greatest logit. A thread's ids ascend, so the first of equal ones stays.
  {
    float best = -INFINITY;
    uint32_t at = threadIdx.x;
    bool broken = false;
    for_tokens<4>(s, row, [&](uint32_t i, float logit) {
      broken = broken || !(logit < INFINITY);
      if (logit > best) {
        best = logit;
        at = i;
      }
    });
    if (broken) s.broken = 1;
    uint64_t greatest = at < row.count ? preference(best, row.first + at) : 0;
#pragma unroll
    for (int d = 16; d > 0; d /= 2) greatest = max(greatest, __shfl_xor_sync(~0u, greatest, d));
    if (threadIdx.x % 32 == 0) atomicMax(reinterpret_cast<unsigned long long*>(&s.best), greatest);
  }
  meet_cluster();
  uint64_t best = 0;
  for (int c = 0; c < kCluster; ++c) best = max(best, load_remote(&s.best, c));
  const bool broken = cluster_total(&s.broken) != 0;
  const uint32_t best_key = static_cast<uint32_t>(best >> kIdBits);
  row.top = float_of(best_key & 0x80000000u ? best_key ^ 0x80000000u : ~best_key);
  const SamplingParams params = rows[index].params;
  row.inverse = __fdiv_rn(1.0f, params.temperature);
  const bool greedy = params.temperature == 0 || isinf(row.inverse);
  if (broken || row.top == -INFINITY || greedy) {
    constexpr uint32_t kMask = (1u << kIdBits) - 1;
    if (rank == 0 && threadIdx.x == 0)
      ids[index] = broken || row.top == -INFINITY
                       ? kBrokenLogits
                       : static_cast<int32_t>(kMask - (static_cast<uint32_t>(best) & kMask));
    meet_cluster();  // a CTA may not leave while its shared memory is read
    return;
  }

  // Phase 2: the filters.
  int round = 0;
  if (params.top_k > 0 && params.top_k < vocab)
    row.cut = find_cut(
        s, row, true, [&](uint64_t) { return static_cast<uint64_t>(params.top_k); }, round);
  if (params.top_p < 1)
    row.cut = find_cut(
        s, row, false, [&](uint64_t total) { return nucleus_weight(total, params.top_p); }, round);
  if (params.min_p > 0) row.floor = least_weight(uint64_t{1} << kWeightBits, params.min_p);

  // Phase 3: draw.
  const Totals t = totals(s, row);
  const uint64_t drawn = draw_below(random_bits(params.seed, rows[index].position), t.all);
  if (drawn >= t.before && drawn - t.before < t.own) pick(s, row, drawn - t.before, ids + index);
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
                dim3(sample::kThreads), 0, sample::kCluster, logits, stride, vocab, rows_dev, ids);
}

}  // namespace fathom::cuda
