#pragma once

#include "bench/cuda/kernel_bench.h"

namespace fathom::cuda {

// Sampling from V3.2's vocabulary: greedy, plain, and with every filter.
void bench_sample(BenchContext& bench);

}  // namespace fathom::cuda
