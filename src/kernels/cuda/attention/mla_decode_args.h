// What the decode kernels are launched with.
#pragma once

#include "kernels/cuda/attention/mla.h"
#include "kernels/cuda/prim/launch.h"

namespace fathom::cuda::decode {

// Sum and maximum of one split of one (token, head): weights are 2^(score - top) for scores in
// units of log2, so a split's share of the whole is 2^(top - greatest top).
struct SplitStats {
  float top;  // -inf: the split has no keys, and its partial sums were not written
  float sum;
};

struct Args {
  MlaParams p;
  int first_token;  // of this launch
  int splits;
  float scale_log2;   // p.scale * log2(e)
  float* partial;     // [tokens of the launch, splits, heads, 512], columns in kernel order
  SplitStats* stats;  // [tokens of the launch, splits, heads]
};

// One launch each; tokens [first_token, first_token + tokens).
void launch_splits_fp8(const Args& a, int tokens, const Launch& l);
void launch_splits_bf16(const Args& a, int tokens, const Launch& l);
void launch_combine(const Args& a, int tokens, const Launch& l);

}  // namespace fathom::cuda::decode
