// Every family's timings, one after another.
#include "kernels/cuda/attention/mla_decode_bench.h"
#include "kernels/cuda/attention/prefill_bench.h"
#include "kernels/cuda/bench/kernel_bench.h"
#include "kernels/cuda/gemm/bf16_bench.h"
#include "kernels/cuda/gemm/fp8_few_bench.h"
#include "kernels/cuda/gemm/fp8_many_bench.h"
#include "kernels/cuda/indexer/index_scores_bench.h"
#include "kernels/cuda/indexer/topk_bench.h"
#include "kernels/cuda/moe/moe_bench.h"
#include "kernels/cuda/norm/norm_bench.h"
#include "kernels/cuda/sample/sample_bench.h"
#include "kernels/gpu.h"

namespace fathom {

void bench_gpu_kernels(const std::string& only) {
  cuda::BenchContext bench(only);
  cuda::bench_fp8_few(bench);
  cuda::bench_fp8_many(bench);
  cuda::bench_bf16(bench);
  cuda::bench_mla_decode(bench);
  cuda::bench_prefill(bench);
  cuda::bench_index_scores(bench);
  cuda::bench_topk(bench);
  cuda::bench_norm(bench);
  cuda::bench_moe(bench);
  cuda::bench_sample(bench);
}

}  // namespace fathom
