// The weighted sum behind the experts, alone or with the norm that takes it.
//
// Numerics: f32, one fused multiply-add an expert in ascending expert id (= ascending ragged row),
// then the shared expert; rounded once. The norm is that of norm/norm_row.cuh.
#include "kernels/cuda/moe/moe.h"
#include "kernels/cuda/norm/norm_row.cuh"

namespace fathom::cuda {
namespace moe {

constexpr int kCombineThreads = 128;

struct TokenRows {
  int32_t row[kMaxExpertsPerToken];
  float weight[kMaxExpertsPerToken];
};

// Sorts a token's rows, and returns their number: the place of each slot's row. Pairs without an
// expert have no row. Every thread of the CTA calls.
__device__ __forceinline__ int sort_rows(const CombineParams& p, int64_t token, TokenRows& sorted) {
  const int lane = threadIdx.x % 32;
  const int32_t row = lane < p.per_token ? p.row_of[token * p.per_token + lane] : -1;
  const int experts = __popc(__ballot_sync(~0u, row >= 0));
  if (threadIdx.x < 32) {
    const float weight = lane < p.per_token ? p.weights[token * p.per_token + lane] : 0.0f;
    int place = 0;
    for (int k = 0; k < p.per_token; ++k) {
      int32_t other = __shfl_sync(~0u, row, k);
      place += other >= 0 && other < row;
    }
    if (row >= 0) {
      sorted.row[place] = row;
      sorted.weight[place] = weight;
    }
  }
  __syncthreads();
  return experts;
}

// Eight columns of a token's sum. The loads of kRowsAtOnce rows are in flight.
template <int kRowsAtOnce>
__device__ __forceinline__ uint4 weighted_sum(const CombineParams& p, const TokenRows& sorted,
                                              int experts, int64_t token, int column) {
  uint4 common = {};
  if (p.shared) common = load_vector(p.shared + token * p.n + column);
  float sum[kLaneValues] = {}, x[kLaneValues];
  for (int begin = 0; begin < experts; begin += kRowsAtOnce) {
    uint4 v[kRowsAtOnce];
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i)
      if (begin + i < experts)
        v[i] = load_vector(p.rows + static_cast<int64_t>(sorted.row[begin + i]) * p.n + column);
#pragma unroll
    for (int i = 0; i < kRowsAtOnce; ++i)
      if (begin + i < experts) {
        const float w = sorted.weight[begin + i];
        unpack(v[i], x);
#pragma unroll
        for (int j = 0; j < kLaneValues; ++j) sum[j] = __fmaf_rn(w, x[j], sum[j]);
      }
  }
  unpack(common, x);
#pragma unroll
  for (int j = 0; j < kLaneValues; ++j) sum[j] += x[j];
  return pack(sum);
}

// One CTA takes 1024 columns of a token.
__global__ void __launch_bounds__(kCombineThreads) combine_kernel(CombineParams p) {
  __shared__ TokenRows sorted;
  pdl_wait();
  pdl_trigger();
  const int64_t token = blockIdx.y;
  const int experts = sort_rows(p, token, sorted);
  const int column = static_cast<int>(blockIdx.x * kCombineThreads + threadIdx.x) * kLaneValues;
  if (column >= p.n) return;
  store_vector(p.out + token * p.n + column, weighted_sum<8>(p, sorted, experts, token, column));
}

// One CTA takes a token. With four loads in flight and gains that come late there is room for a
// second CTA on the SM.
template <int kVectors>
__global__ void __launch_bounds__(kVectors <= 2 ? 512 : 1024, kVectors <= 2 ? 2 : 1)
    combine_rms_norm_kernel(CombineParams c, RmsNormParams p) {
  __shared__ TokenRows sorted;
  NormRow<kVectors, /*kEarlyGain=*/false> norm;
  pdl_wait();
  pdl_trigger();
  const int64_t token = blockIdx.x;
  norm.load_residual(p, token);
  const int experts = sort_rows(c, token, sorted);
  uint4 value[kVectors];
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int column = static_cast<int>(threadIdx.x + i * blockDim.x) * kLaneValues;
    value[i] = column < c.n ? weighted_sum<4>(c, sorted, experts, token, column) : uint4{};
  }
  norm.run(p, token, value);
}

void check_combine(const CombineParams& p) {
  require(p.n > 0 && p.n % kLaneValues == 0, "combine: rows are a multiple of 8 values");
  require(p.per_token >= 0 && p.per_token <= kMaxExpertsPerToken,
          "combine: up to 32 experts a token");
  require(p.tokens <= 65535, "combine: up to 65535 tokens a step");
}

}  // namespace moe

void combine(const CombineParams& p, const Launch& l) {
  if (p.tokens == 0) return;
  moe::check_combine(p);
  const unsigned columns = moe::kCombineThreads * kLaneValues;
  launch_kernel(l, moe::combine_kernel, dim3((p.n + columns - 1) / columns, p.tokens),
                dim3(moe::kCombineThreads), 0, 1, p);
}

void combine_rms_norm(const CombineParams& c, const RmsNormParams& p, const Launch& l) {
  if (c.tokens == 0) return;
  moe::check_combine(c);
  check_norm(p);
  require(p.rows == c.tokens && p.n == c.n && p.residual, "combine: a norm of other rows");
  const int each = norm_vectors(p.n);
  auto kernel = each == 1   ? moe::combine_rms_norm_kernel<1>
                : each == 2 ? moe::combine_rms_norm_kernel<2>
                            : moe::combine_rms_norm_kernel<4>;
  launch_kernel(l, kernel, dim3(c.tokens), dim3(norm_threads(p.n)), 0, 1, c, p);
}

}  // namespace fathom::cuda
