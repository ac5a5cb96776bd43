// Timings of the FP8 products for many rows, dense and by expert, at the model's shapes.
#pragma once

#include "bench/cuda/kernel_bench.h"

namespace fathom::cuda {

void bench_fp8_many(BenchContext& bench);

}  // namespace fathom::cuda
