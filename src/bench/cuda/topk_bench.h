#pragma once

#include "bench/cuda/kernel_bench.h"

namespace fathom::cuda {

// Selection of 2048 positions at the rows and contexts of decode and of a prefill chunk.
void bench_topk(BenchContext& bench);

}  // namespace fathom::cuda
