// The sum of what all ranks have sent, once it lies in this rank's memory: in float32, in the order
// of the ranks, rounded once, so that every rank ends with the same bits.
#pragma once

#include <cstdint>

#include "kernels/cuda/prim/launch.h"
#include "numerics/bf16.h"

namespace fathom::cuda {

struct RankSumParams {
  const Bf16* parts = nullptr;  // [ranks, rows, n]
  Bf16* out = nullptr;          // [rows, n], rows out_stride apart
  int ranks = 0, rows = 0, n = 0;
  int64_t out_stride = 0;
};

void rank_sum(const RankSumParams& p, const Launch& l);

}  // namespace fathom::cuda
