#pragma once

#include "bench/cuda/kernel_bench.h"

namespace fathom::cuda {

// Indexer scores of 64 heads: decode batches and prefill chunks at several contexts.
void bench_index_scores(BenchContext& bench);

}  // namespace fathom::cuda
