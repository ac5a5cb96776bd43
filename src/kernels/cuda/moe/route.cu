// Routing and the ragged permutation.
//
// The permutation is two kernels when there are many pairs: every block of 1024 counts its pairs
// per expert, then every block sums the counts of those before it and places its own. A few
// tokens' pairs fit one block, which routes them as well.
#include "kernels/cuda/moe/permute_block.cuh"
#include "kernels/cuda/moe/route_warp.cuh"

namespace fathom::cuda {
namespace moe {

constexpr int kRouteWarps = 4;
// One SM routes this many tokens in the time of one (one token a scheduler). For more, a second
// launch pays.
constexpr int kFusedTokens = 4;
constexpr int kFusedExperts = 256, kFusedThreads = kFusedExperts + 32;

// Router counts up to 256 keep 8 experts a lane; up to 1024, 32.
template <int kPer>
__global__ void __launch_bounds__(kRouteWarps * 32) route_kernel(RouteParams p) {
  extern __shared__ float route_shared[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int t = blockIdx.x * kRouteWarps + warp;
  pdl_wait();
  pdl_trigger();
  if (t >= p.tokens) return;
  int32_t id = -1;
  float weight = 0;
  if (!p.live_tokens || t < *p.live_tokens)
    route_warp<kPer>(p.shape, p.logits + static_cast<int64_t>(t) * p.shape.experts, p.bias,
                     route_shared + warp * route_scratch(p.shape), id, weight);
  if (lane < p.shape.per_token) {
    p.ids[static_cast<int64_t>(t) * p.shape.per_token + lane] = id;
    p.weights[static_cast<int64_t>(t) * p.shape.per_token + lane] = weight;
  }
}

__global__ void __launch_bounds__(kPairs)
    count_kernel(const int32_t* ids, int pairs, int first, int experts, uint32_t* counts) {
  __shared__ uint32_t count[kMaxExperts];
  const int tid = threadIdx.x, i = blockIdx.x * kPairs + tid;
  count[tid] = 0;
  pdl_wait();
  pdl_trigger();
  __syncthreads();
  const int id = i < pairs ? placed_expert(ids[i], first, experts) : -1;
  if (id >= 0) atomicAdd(&count[id], 1);
  __syncthreads();
  if (tid < experts) counts[static_cast<int64_t>(blockIdx.x) * experts + tid] = count[tid];
}

__global__ void __launch_bounds__(kPairs) place_kernel(PermuteParams p, const uint32_t* counts) {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  PermuteShared& s = *reinterpret_cast<PermuteShared*>(shared_bytes);
  const int pairs = p.tokens * p.per_token, i = blockIdx.x * kPairs + threadIdx.x;
  clear_counts(s, p.experts);
  pdl_wait();
  pdl_trigger();
  __syncthreads();
  const int id = i < pairs ? placed_expert(p.ids[i], p.first, p.experts) : -1;
  auto total_of = [&](int e, uint32_t own, uint32_t& before) {
    if (gridDim.x == 1) return own;
    uint32_t total = 0;
#pragma unroll 8
    for (unsigned b = 0; b < gridDim.x; ++b) {
      uint32_t c = counts[static_cast<int64_t>(b) * p.experts + e];
      before += b < blockIdx.x ? c : 0;
      total += c;
    }
    return total;
  };
  uint32_t first_row, all_rows;
  const int row = place_pairs(s, id, p.experts, total_of, first_row, all_rows);
  if (i < pairs) p.row_of[i] = row;
  if (row >= 0) p.token_of[row] = i / p.per_token;
  if (blockIdx.x == 0) {
    if (static_cast<int>(threadIdx.x) < p.experts) p.offsets[threadIdx.x] = first_row;
    if (threadIdx.x == 0) p.offsets[p.experts] = all_rows;
  }
}

// A step of few pairs: each finds its place by looking at all of them.
template <int kPer>
__global__ void __launch_bounds__(kFusedThreads)
    route_place_kernel(RouteParams r, PermuteParams p) {
  extern __shared__ float route_shared[];
  __shared__ int32_t chosen[kFusedTokens * kMaxExpertsPerToken];
  const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
  const int pairs = p.tokens * p.per_token;
  pdl_wait();
  pdl_trigger();
  if (warp < r.tokens) {
    int32_t id = -1;
    float weight = 0;
    if (!r.live_tokens || warp < *r.live_tokens)
      route_warp<kPer>(r.shape, r.logits + static_cast<int64_t>(warp) * r.shape.experts, r.bias,
                       route_shared + warp * route_scratch(r.shape), id, weight);
    if (lane < p.per_token) {
      const int i = warp * p.per_token + lane;
      r.ids[i] = id;
      r.weights[i] = weight;
      chosen[i] = placed_expert(id, p.first, p.experts);
    }
  }
  __syncthreads();
  if (tid < pairs) {
    const int own = chosen[tid];
    int row = 0;
    for (int i = 0; i < pairs; ++i)
      row += chosen[i] >= 0 && (chosen[i] < own || (chosen[i] == own && i < tid));
    p.row_of[tid] = own >= 0 ? row : -1;
    if (own >= 0) p.token_of[row] = tid / p.per_token;
  }
  if (tid <= p.experts) {
    int first_row = 0;
    for (int i = 0; i < pairs; ++i) first_row += chosen[i] >= 0 && chosen[i] < tid;
    p.offsets[tid] = first_row;
  }
}

void check_route(const RouteParams& p) {
  const RouterShape& s = p.shape;
  require(s.experts >= 1 && s.experts <= kMaxExperts, "routing: 1 to 1024 experts");
  require(s.per_token >= 1 && s.per_token <= kMaxExpertsPerToken && s.per_token <= s.experts,
          "routing: 1 to 32 experts a token");
  require(s.groups >= 1 && s.groups <= kMaxGroups && s.groups <= s.experts,
          "routing: 1 to 256 expert groups");
}

void check_permute(const PermuteParams& p) {
  require(p.experts >= 1 && p.experts <= kMaxExperts, "permutation: 1 to 1024 experts");
  require(p.per_token >= 1 && p.tokens >= 0 && int64_t{p.tokens} * p.per_token <= int64_t{1} << 30,
          "permutation: more than 2^30 rows");
}

}  // namespace moe

void route(const RouteParams& p, const Launch& l) {
  if (p.tokens == 0) return;
  moe::check_route(p);
  size_t shared = sizeof(float) * moe::kRouteWarps * moe::route_scratch(p.shape);
  dim3 grid((p.tokens + moe::kRouteWarps - 1) / moe::kRouteWarps), block(moe::kRouteWarps * 32);
  if (p.shape.experts <= 256)
    launch_kernel(l, moe::route_kernel<8>, grid, block, shared, 1, p);
  else
    launch_kernel(l, moe::route_kernel<32>, grid, block, shared, 1, p);
}

void permute(const PermuteParams& p, const Launch& l) {
  moe::check_permute(p);
  require(l.workspace_bytes >= permute_workspace(p.tokens, p.per_token, p.experts),
          "permutation: workspace too small");
  // No tokens: one block writes the offsets, all zero.
  const int blocks = p.tokens == 0 ? 1 : moe::pair_blocks(p.tokens, p.per_token);
  uint32_t* counts = static_cast<uint32_t*>(l.workspace);
  if (blocks > 1)
    launch_kernel(l, moe::count_kernel, dim3(blocks), dim3(moe::kPairs), 0, 1, p.ids,
                  p.tokens * p.per_token, p.first, p.experts, counts);
  launch_kernel(l, moe::place_kernel, dim3(blocks), dim3(moe::kPairs),
                moe::permute_shared_bytes(p.experts), 1, p, counts);
}

void route_and_permute(const RouteParams& r, const PermuteParams& p, const Launch& l) {
  require(r.ids == p.ids && r.tokens == p.tokens && p.first >= 0 &&
              p.first + p.experts <= r.shape.experts && r.shape.per_token == p.per_token,
          "routing and permutation of different batches");
  if (r.tokens == 0 || r.tokens > moe::kFusedTokens || r.shape.experts > moe::kFusedExperts) {
    route(r, l);
    permute(p, l);
    return;
  }
  moe::check_route(r);
  moe::check_permute(p);
  launch_kernel(l, moe::route_place_kernel<8>, dim3(1), dim3(moe::kFusedThreads),
                sizeof(float) * moe::kFusedTokens * moe::route_scratch(r.shape), 1, r, p);
}

}  // namespace fathom::cuda
