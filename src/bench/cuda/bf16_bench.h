// Timings of the bf16 products at V3.2's real sizes.
#pragma once

#include "bench/cuda/kernel_bench.h"

namespace fathom::cuda {

void bench_bf16(BenchContext& bench);

}  // namespace fathom::cuda
