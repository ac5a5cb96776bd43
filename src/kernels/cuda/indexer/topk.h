// Exact selection of the `topk` best index scores of each row (numerics/selection.h: the higher
// score first, then the lower position; -0 equals +0), whatever the values are.
#pragma once

#include <cstdint>

#include "kernels/cuda/prim/launch.h"

namespace fathom::cuda {

inline constexpr int kMaxTopk = 2048;
inline constexpr int64_t kMaxTopkContext = 163840;

struct TopkParams {
  const float* scores = nullptr;       // [rows, stride], 16-byte aligned; no NaN among candidates
  int64_t stride = 0;                  // floats from row to row: a multiple of 4, >= max_context
  const int32_t* positions = nullptr;  // [rows] row t has positions[t] + 1 candidates
  int rows = 0;
  int64_t max_context = 0;    // no row has more candidates: chooses the grid, never read on device
  int topk = 0;               // 1 .. kMaxTopk
  int32_t* picked = nullptr;  // [rows, topk] ascending positions, then -1
};

// Rows with at most topk candidates pick all of them; their scores are not read.
void index_topk(const TopkParams& params, const Launch& launch);

}  // namespace fathom::cuda
