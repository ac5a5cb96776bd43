// Expanded multi-head attention: keys and values of every head are formed from the latent rows,
//
//   k[s, h] = [key_h lat_s | rope_s]     v[s, h] = value_h lat_s      (each rounded to bf16)
//   out[t, h] = sum over s of softmax_s(scale * q[t, h] . k[s, h]) v[s, h]
//
// over the picked positions, or over every position up to the token's own. Below some context this
// costs less than the absorbed form over topk keys: 320 products a (query, key, head) against 1088.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cuda/attention/mla_prefill.h"

namespace fathom::cuda {

struct MhaParams {
  const Bf16* q = nullptr;  // [tokens, heads, 192]: 128 nope, 64 rotated; strides in elements
  int64_t q_token_stride = 0, q_head_stride = 0;  // multiples of 8
  LatentCache cache;
  const Bf16* absorb = nullptr;     // [heads, 512, 128] key parts, transposed as the absorbed form
                                    // has them
  const Bf16* value_up = nullptr;   // [heads, 128, 512]
  const int32_t* picked = nullptr;  // [tokens, topk] as in MlaParams, or null
  int topk = 0;
  int tokens = 0, heads = 0;
  float scale = 0;               // softmax scale, natural base
  Bf16* out = nullptr;           // row of token t, head h at t * out_token_stride + h * 128
  int64_t out_token_stride = 0;  // a multiple of 8
};

// Attention for the tokens of `spans`; other rows of out are left alone. Spans are taken one by
// one, heads in groups as large as the workspace allows. The products that form keys and values are
// planned by their size, so bits may depend on context and workspace: batch-invariant runs take the
// absorbed form.
void mha_prefill(const MhaParams& p, std::span<const PrefillSpan> spans, const Launch& l);

}  // namespace fathom::cuda
