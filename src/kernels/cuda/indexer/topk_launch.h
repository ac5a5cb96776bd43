// Top-k with a given plan: what index_topk calls, and tests and benchmarks to try every shape.
#pragma once

#include "kernels/cuda/indexer/topk.h"
#include "kernels/cuda/indexer/topk_plan.h"

namespace fathom::cuda {

void index_topk_planned(const TopkParams& params, const TopkPlan& plan, const Launch& launch);

}  // namespace fathom::cuda
