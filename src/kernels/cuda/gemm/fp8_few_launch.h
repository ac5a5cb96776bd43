// What the kernel takes, and the files that hold its instantiations.
#pragma once

#include <cuda.h>

#include "kernels/cuda/gemm/fp8_few_layout.h"
#include "kernels/cuda/gemm/fp8_few_plan.h"
#include "kernels/cuda/gemm/fp8_gemm.h"
#include "kernels/cuda/prim/tma.h"

namespace fathom::cuda {

struct FewArgs {
  CUtensorMap weights;         // [experts * n, k] codes, box 64 groups x 128
  CUtensorMap rows;            // [rows, k] codes, box box_rows x 128
  CUtensorMap scales;          // [k / 128, scale_stride], box 1 x scale_box
  const float* weight_scales;  // [experts, ceil(n / 128), slices]
  const int32_t* offsets;      // grouped: [experts + 1]
  OutSegment out[kMaxSegments];
  int segments;
  int n, slices, rows_total;
  int experts;              // 0: dense, all rows in one tile
  int box_rows, scale_box;  // dense: the rows, rounded for the scales; grouped: 8, tokens + 4
  int splits, stages;
};

void launch_few_dense(const FewArgs& args, const FewPlan& plan, const Launch& l);
void launch_few_grouped(const FewArgs& args, const FewPlan& plan, const Launch& l);

}  // namespace fathom::cuda
