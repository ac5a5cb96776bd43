// How the expanded form divides its workspace: plain host code.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fathom::cuda::mha {

// Offsets of the parts of the workspace, in bytes, and the size of a head group.
struct WorkspacePlan {
  size_t latent = 0;   // [context, 576] bf16
  size_t mask = 0;     // [tokens, mask_words], absent without mask
  size_t weights = 0;  // [group, 128, 512] key parts of the group
  size_t keys = 0;     // [context, group * 128]
  size_t values = 0;   // [context, group * 128]
  size_t bytes = 0;    // in all
  int mask_words = 0;  // of one token
  int group = 0;       // heads; 0: not even one fits
};

// With exactly `group` heads at once.
WorkspacePlan workspace_plan(int tokens, int64_t context, bool masked, int group);

// With as many of `heads` as fit into `bytes`, in groups of about equal size.
WorkspacePlan fit_workspace(int tokens, int64_t context, bool masked, int heads, size_t bytes);

}  // namespace fathom::cuda::mha
