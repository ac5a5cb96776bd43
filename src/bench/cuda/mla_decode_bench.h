#pragma once

#include "bench/cuda/kernel_bench.h"

namespace fathom::cuda {

// Absorbed attention of one token per sequence: over 2048 picked positions of an fp8 cache, and
// dense over a bf16 one.
void bench_mla_decode(BenchContext& bench);

}  // namespace fathom::cuda
