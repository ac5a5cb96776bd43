// Absorbed attention for prefill chunks (the parameters are in mla.h).
//
// The kernel reads bf16 rows. An fp8 cache is dequantised first, once per step and layer, into a
// workspace of contiguous rows: a chunk reads each row many times, and 1,808 bytes of traffic per
// row of context are little beside them. Spans too short to fill the card, or whose rows do not fit
// the workspace, go to mla_decode, which reads fp8 rows itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cuda/attention/mla.h"
#include "kernels/cuda/prim/launch.h"

namespace fathom::cuda {

// Tokens [begin, end) of the batch: consecutive positions of one sequence, the last one at
// context - 1. The host knows these; positions stay on the device.
struct PrefillSpan {
  int begin = 0, end = 0;
  int sequence = 0;
  int64_t context = 0;
};

// Attention for the tokens of `spans` (ascending, disjoint); other rows of out are left alone.
// With batch_invariant every span takes the prefill kernel, which then must fit the workspace: a
// row's bits depend on its own query and keys only, never on the chunk it came in.
void mla_prefill(const MlaParams& p, std::span<const PrefillSpan> spans, const Launch& l);

}  // namespace fathom::cuda
