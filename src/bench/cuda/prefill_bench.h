#pragma once

#include "bench/cuda/kernel_bench.h"

namespace fathom::cuda {

// Both attention forms for a chunk of 4096 tokens: absorbed over 2048 picked positions (bf16 and
// fp8 cache), expanded with and without the mask.
void bench_prefill(BenchContext& bench);

}  // namespace fathom::cuda
