#pragma once

#include "bench/cuda/kernel_bench.h"

namespace fathom::cuda {

void bench_norm(BenchContext& bench);

}  // namespace fathom::cuda
