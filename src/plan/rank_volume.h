// What the ranks of a layout hold of a model, by the list of its tensors: bytes of memory, and what
// of them a step reads. Ranks differ by a block or an expert where sizes do not divide; each figure
// is that of the rank that has most.
#pragma once

#include <cstdint>

#include "model/config.h"
#include "model/rank_layout.h"

namespace fathom::plan {

// How weights are stored where they are computed with.
enum class WeightStorage {
  file,     // on a CPU: as the checkpoint has them
  gpu_fp8,  // FP8 matrices, and kv_b in bf16 besides, split into its key and value parts
  gpu_bf16  // everything in bf16, kv_b twice
};

struct RankVolume {
  int64_t total = 0;  // bytes of one rank
  // Of these: read in every step; routed experts of all layers; the output matrix; embeddings.
  int64_t always = 0, experts = 0, head = 0, embed = 0;
  int64_t mtp = 0;  // the MTP layer, which only drafts read
  // Weights that a token passes, and those of all routed experts of the rank.
  int64_t always_weights = 0, expert_weights = 0, head_weights = 0;
  int experts_held = 0;  // of one layer, whole or in part
};

// The MTP layer counts if `config` has one: whoever does not load it passes a config without.
RankVolume rank_volume(const Config& config, const RankLayout& layout, WeightStorage storage);

// Bytes of a whole checkpoint: its files hold as much, but for their headers.
int64_t checkpoint_bytes(const Config& config);

// Bytes of the MTP layer in them.
int64_t mtp_bytes(const Config& config);

}  // namespace fathom::plan
