// A checkpoint whose MTP block is welcome, but not needed.
#pragma once

#include <memory>
#include <string>

#include "model/checkpoint.h"

namespace fathom {

struct CheckpointWithOptionalBlock {
  std::unique_ptr<Checkpoint> checkpoint;
  std::string left_out;  // why its block was, although there is something of it; empty: it was not
};

// As Checkpoint::load, but a block with missing or wrong tensors is left out. Throws Error if the
// rest is not right.
CheckpointWithOptionalBlock load_with_optional_block(const std::string& folder,
                                                     CheckpointOptions options);

}  // namespace fathom
