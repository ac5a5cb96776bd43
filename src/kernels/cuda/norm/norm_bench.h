#pragma once

#include "kernels/cuda/bench/kernel_bench.h"

namespace fathom::cuda {

void bench_norm(BenchContext& bench);

}  // namespace fathom::cuda
