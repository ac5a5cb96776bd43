#pragma once

#include "bench/cuda/kernel_bench.h"

namespace fathom::cuda {

// The kernels around the expert GEMMs, at V3.2's sizes: one token, a decode batch, a prefill chunk.
void bench_moe(BenchContext& bench);

}  // namespace fathom::cuda
