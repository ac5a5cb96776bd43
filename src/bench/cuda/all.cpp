// Every family's timings, one after another.
#include "bench/cuda/bf16_bench.h"
#include "bench/cuda/exchange_bench.h"
#include "bench/cuda/fp8_few_bench.h"
#include "bench/cuda/fp8_many_bench.h"
#include "bench/cuda/index_scores_bench.h"
#include "bench/cuda/kernel_bench.h"
#include "bench/cuda/mla_decode_bench.h"
#include "bench/cuda/moe_bench.h"
#include "bench/cuda/norm_bench.h"
#include "bench/cuda/prefill_bench.h"
#include "bench/cuda/sample_bench.h"
#include "bench/cuda/topk_bench.h"
#include "bench/gpu_kernels.h"

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
  cuda::bench_exchange(bench);
}

}  // namespace fathom
