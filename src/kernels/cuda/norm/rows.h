// Whole rows picked by number: token embeddings and the rows whose logits are wanted.
#pragma once

#include <cstdint>

#include "kernels/cuda/prim/launch.h"
#include "numerics/bf16.h"

namespace fathom::cuda {

struct EmbedParams {
  const int32_t* ids = nullptr;   // [rows], each in [0, vocab): the host has checked its own
  const void* table = nullptr;    // [vocab, n] bf16, or e4m3 codes with `scales`
  const float* scales = nullptr;  // [ceil(vocab / 128), scale_stride], null for a bf16 table
  Bf16* out = nullptr;            // [rows, n]
  int rows = 0, n = 0;            // n a multiple of 8
  int64_t scale_stride = 0;       // ceil(n / 128)
  int64_t out_stride = 0;         // elements, a multiple of 8
};
void embed_rows(const EmbedParams& p, const Launch& l);

struct GatherParams {
  const Bf16* x = nullptr;               // [.., n]
  const int32_t* rows_of = nullptr;      // [rows]
  Bf16* out = nullptr;                   // [rows, n]
  int rows = 0, n = 0;                   // n a multiple of 8
  int64_t x_stride = 0, out_stride = 0;  // elements, multiples of 8
};
void gather_rows(const GatherParams& p, const Launch& l);

}  // namespace fathom::cuda
