// The sizes of DeepSeek-V3.2 (671 B).
#pragma once

#include "model/config.h"

namespace fathom {

inline Config real_config() {
  Config c;
  c.vocab = 129280;
  c.hidden = 7168;
  c.layers = 61;
  c.dense_layers = 3;
  c.intermediate = 18432;
  c.moe_intermediate = 2048;
  c.experts = 256;
  c.shared_experts = 1;
  c.experts_per_token = 8;
  c.heads = 128;
  c.q_rank = 1536;
  c.latent = 512;
  c.nope = 128;
  c.rope = 64;
  c.value = 128;
  c.index_heads = 64;
  c.index_dim = 128;
  c.index_topk = 2048;
  c.max_positions = 163840;
  c.mtp_layers = 1;
  c.fp8 = true;
  return c;
}

}  // namespace fathom
