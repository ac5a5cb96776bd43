// The next token of each row by the rule of numerics/sampling.h: bit-equal to the host's Sampler
// for equal logits, because weights are integers and their sums do not depend on the order.
#pragma once

#include <cstdint>

#include "kernels/cuda/prim/launch.h"
#include "numerics/sampling.h"

namespace fathom::cuda {

inline constexpr int64_t kMaxSampleVocab = 229376;  // 8 CTAs, each 2^15 tokens at most

// Lives on the device, one per row: what a graph replays with may change between steps.
struct SampleRow {
  SamplingParams params;
  uint64_t position;  // of the token that is drawn
};

// Instead of a token: the row's logits hold a NaN or +inf, or nothing but -inf.
inline constexpr int32_t kBrokenLogits = -1;

// logits [rows, stride] f32, stride >= vocab; ids [rows].
void sample_tokens(const float* logits, int64_t stride, int rows, int64_t vocab,
                   const SampleRow* rows_dev, int32_t* ids, const Launch& launch);

// ids[t] = drawn[rows[t]] where rows[t] is not negative: what one step drew becomes what the next
// one reads, without the host. A row with broken logits has drawn nothing: its request ends, and
// the step too far reads id 0.
void carry_drawn_ids(int32_t* ids, const int32_t* rows, const int32_t* drawn, int tokens,
                     const Launch& launch);

}  // namespace fathom::cuda
