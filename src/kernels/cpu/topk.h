// Exact top-k of a row of index scores, in the order of numerics/selection.h: higher scores first,
// among equal ones (-0 equals +0) lower positions first.
#pragma once

#include <cstdint>

#include "kernels/cpu/attention_kernels.h"

namespace fathom {

// Writes the positions of the k greatest of n > k scores to `out`, ascending. `keys` and `active`
// are scratch of n each. A NaN is ordered beyond the infinities; it changes nothing else.
void select_topk(const AttentionKernels& kernels, const float* scores, int64_t n, int64_t k,
                 uint32_t* keys, uint32_t* active, int32_t* out);

}  // namespace fathom
