// Absorbed multi-head latent attention on the GPU: what decode and prefill kernels share.
//
//   out[t, h] = sum over the keys s of token t of  softmax_s(scale * (q_latent . lat_s + q_rope .
//   rope_s)) lat_s
//
// Keys are the picked positions, or every position up to the token's own (dense).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention/workspace.h"
#include "numerics/bf16.h"
#include "numerics/cache_rows.h"

namespace fathom::cuda {

struct Launch;

// The latent rows of one layer as they lie in device memory, and how a token finds its own. The row
// of position p of token t is page_tables[sequence_of[t] * max_pages + p / 64] * 64 + p % 64.
struct LatentCache {
  const std::byte* rows = nullptr;       // [pages * 64] rows, 16-byte aligned
  bool fp8 = false;                      // rows of 656 bytes (LatentRowFp8), else of 576 bf16
  const int32_t* page_tables = nullptr;  // [sequences, max_pages]
  int max_pages = 0;
  const int32_t* sequence_of = nullptr;  // [tokens]
  const int32_t* positions = nullptr;    // [tokens]
};

struct MlaParams {
  const Bf16* q_latent = nullptr;  // [tokens, heads, 512] absorbed query
  const Bf16* q_rope = nullptr;    // [tokens, heads, 64], already rotated, strides in elements
  int64_t q_rope_token_stride = 0, q_rope_head_stride = 0;  // multiples of 8
  LatentCache cache;
  const int32_t* picked = nullptr;  // [tokens, topk] ascending logical positions, then -1; null:
                                    // every position 0 .. positions[t] (dense)
  int topk = 0;
  int tokens = 0, heads = 0;
  float scale = 0;          // softmax scale, natural base
  Bf16* out = nullptr;      // [tokens, heads, 512] in latent space
  int64_t max_context = 0;  // positions[t] < max_context
};

// Few tokens (decode): the keys of a token are split over several thread blocks and combined.
// Scratch: mla_decode_workspace bytes (attention/workspace.h), for any params within these bounds.
void mla_decode(const MlaParams& p, const Launch& l);

// Many tokens (prefill): one pass over a token's keys. No scratch.
void mla_prefill(const MlaParams& p, const Launch& l);

}  // namespace fathom::cuda
