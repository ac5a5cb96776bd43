// Sums and gathers between the GPUs of this machine (kernels/cuda/comm).
#pragma once

#include "bench/cuda/kernel_bench.h"

namespace fathom::cuda {

void bench_exchange(BenchContext& bench);

}  // namespace fathom::cuda
