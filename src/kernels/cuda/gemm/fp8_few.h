// FP8 product for few rows, where reading the weights once is all the work: weights take the
// tensor core's 64-row side and tokens its narrow side, so that one token costs 8 columns and not
// 64 rows.
#pragma once

#include "kernels/cuda/gemm/fp8_few_plan.h"
#include "kernels/cuda/gemm/fp8_gemm.h"

namespace fathom::cuda {

// At most kFewRows rows.
void fp8_gemm_few(const Fp8GemmParams& p, const FewPlan& plan, const Launch& l);

// Any number of rows; good while experts have few.
void fp8_grouped_few(const Fp8GroupedParams& p, const FewPlan& plan, const Launch& l);

}  // namespace fathom::cuda
