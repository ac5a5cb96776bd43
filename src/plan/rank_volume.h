// How much of a model each rank of a layout holds, computed from the list of its tensors: bytes of
// memory, and the bytes that a step reads. Where sizes do not divide, ranks differ by a block or an
// expert; each figure is that of the rank with the most.
#pragma once

#include <cstdint>

#include "model/config.h"
#include "model/rank_layout.h"

namespace fathom::plan {

// How weights are stored on the device.
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
  // Numbers of weights: those that every token is multiplied with, those of all routed experts of
  // the rank, and those of the head.
  int64_t always_weights = 0, expert_weights = 0, head_weights = 0;
  int experts_held = 0;  // of one layer, whole or in part
};

// The MTP layer counts if `config` has one. If it is not loaded, pass a config without it.
RankVolume rank_volume(const Config& config, const RankLayout& layout, WeightStorage storage);

// Returns the bytes of a whole checkpoint: those of its files without their headers.
int64_t checkpoint_bytes(const Config& config);

// Returns the bytes of the MTP layer in a checkpoint.
int64_t mtp_bytes(const Config& config);

}  // namespace fathom::plan
