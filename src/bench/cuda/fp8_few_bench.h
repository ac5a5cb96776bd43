// Timings of the FP8 products of decode at V3.2's real sizes.
#pragma once

#include "bench/cuda/kernel_bench.h"

namespace fathom::cuda {

void bench_fp8_few(BenchContext& bench);

}  // namespace fathom::cuda
