#include "kernels/cuda/comm/rank_sum.h"

#include <algorithm>

namespace fathom::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerSm = 8;

__global__ void __launch_bounds__(kThreads) rank_sum_kernel(RankSumParams p) {
  pdl_wait();
  pdl_trigger();
  const int64_t total = int64_t{p.rows} * p.n, step = int64_t{gridDim.x} * kThreads;
  for (int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x; at < total; at += step) {
    float sum = to_float(p.parts[at]);
    for (int r = 1; r < p.ranks; ++r) sum += to_float(p.parts[r * total + at]);
    p.out[at / p.n * p.out_stride + at % p.n] = to_bf16(sum);
  }
}

}  // namespace

void rank_sum(const RankSumParams& p, const Launch& l) {
  require(p.ranks > 0 && p.rows >= 0 && p.n > 0, "a sum of no ranks or columns");
  if (p.rows == 0) return;
  const int64_t blocks = (int64_t{p.rows} * p.n + kThreads - 1) / kThreads;
  launch_kernel(l, rank_sum_kernel,
                dim3(static_cast<unsigned>(std::min<int64_t>(blocks, l.sms * kBlocksPerSm))),
                dim3(kThreads), 0, 1, p);
}

}  // namespace fathom::cuda
