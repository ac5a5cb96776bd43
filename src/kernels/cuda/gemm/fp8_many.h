// FP8 products of many rows (prefill): the part of fp8_gemm.h that is limited by the tensor cores,
// or, in the grouped form, by reading every expert's weights once.
#pragma once

#include "kernels/cuda/gemm/fp8_gemm.h"
#include "kernels/cuda/gemm/fp8_many_plan.h"

namespace fathom::cuda {

// Any number of rows; no workspace. The order of additions does not depend on the number of rows.
void fp8_gemm_many(const Fp8GemmParams& p, const Launch& l);
void fp8_grouped_many(const Fp8GroupedParams& p, const Launch& l);

// With the plan given, for tests and measurements.
void fp8_gemm_many_as(const ManyPlan& plan, const Fp8GemmParams& p, const Launch& l);

}  // namespace fathom::cuda
