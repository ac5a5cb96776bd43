// What the host hands to the bf16 kernels.
#pragma once

#include <cuda.h>

#include "kernels/cuda/gemm/bf16_gemm.h"
#include "kernels/cuda/gemm/bf16_plan.h"

namespace fathom::cuda {

struct Bf16Work {
  OutSegment out[4];
  CodedOut coded;
  int64_t out_batch_stride;
  const int32_t* offsets;  // grouped: [batch + 1]
  int segments;
  int rows;    // tokens; grouped: the bound
  int n;       // weight rows
  int slices;  // ceil(k / 64)
  int batch;   // or experts
  int token_tiles, weight_tiles;
  int stage_bytes;  // that one stage really receives: boxes never exceed the tensor
  int stages;
};

// One function a family of instantiations; each knows the shapes of its table and refuses others.
void launch_bf16_few(const Bf16Plan& plan, const CUtensorMap& m_map, const CUtensorMap& n_map,
                     const Bf16Work& work, const Launch& l);
void launch_bf16_many(const Bf16Plan& plan, const CUtensorMap& m_map, const CUtensorMap& n_map,
                      const Bf16Work& work, const Launch& l);
void launch_bf16_grouped(const Bf16Plan& plan, const CUtensorMap& m_map, const CUtensorMap& n_map,
                         const Bf16Work& work, const Launch& l);

// As bf16_gemm and bf16_grouped_gemm, with a plan of the caller's (tests, measurements).
void bf16_gemm_with(const Bf16GemmParams& p, const Bf16Plan& plan, const Launch& l);
void bf16_grouped_gemm_with(const Bf16GroupedParams& p, const Bf16Plan& plan, const Launch& l);

}  // namespace fathom::cuda
