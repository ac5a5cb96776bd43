// What the kernels of the expanded form are launched with.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/prim/launch.h"
#include "kernels/cuda/prim/tma.h"
#include "numerics/bf16.h"

namespace fathom::cuda::mha {

constexpr int kQueryRows = 128;  // of a tile: consecutive tokens, one head
constexpr int kKeyRows = 128;    // of a block

// Attention of one span over some heads. Heads count from the first of the group.
struct AttendArgs {
  CUtensorMap query;     // [tokens, heads, 192], boxes of 128 tokens x 1 head x 64
  CUtensorMap keys;      // [context, heads * 128], boxes of 128 x 64
  CUtensorMap values;    // [context, heads * 128]
  CUtensorMap rope;      // [context, 64]: the rotary part of the latent rows, one for all heads
  const uint32_t* mask;  // [tokens, mask_words] bit s of a row: position s is picked; null: causal
  int mask_words;        // a multiple of 4 that covers the last key block
  int tokens, heads;
  int first_position;  // of token 0; the rest follow
  float scale_log2;    // softmax scale times log2(e)
  Bf16* out;           // row of token t, head h at t * out_token_stride + h * 128
  int64_t out_token_stride;
};
void launch_attend(const AttendArgs& a, const Launch& l);

// Bit per position from rows of picked positions (any order, -1 ends a row).
struct MaskArgs {
  const int32_t* picked;  // [tokens, topk]
  int topk, tokens;
  uint32_t* mask;  // [tokens, mask_words]
  int mask_words;
};
void launch_mask(const MaskArgs& a, const Launch& l);

// out[i] = in[i] transposed: [count, rows, cols] -> [count, cols, rows]; multiples of 64.
struct TransposeArgs {
  const Bf16* in;
  Bf16* out;
  int count, rows, cols;
};
void launch_transpose(const TransposeArgs& a, const Launch& l);

// Rows of 576 bf16 from their pages to contiguous memory.
struct GatherArgs {
  const std::byte* rows;
  const int32_t* page_table;  // of the sequence
  std::byte* out;
  int64_t context;
};
void launch_gather(const GatherArgs& a, const Launch& l);

}  // namespace fathom::cuda::mha
