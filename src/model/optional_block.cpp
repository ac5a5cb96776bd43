#include "model/optional_block.h"

#include "base/error.h"

namespace fathom {

CheckpointWithOptionalBlock load_with_optional_block(const std::string& folder,
                                                     CheckpointOptions options) {
  options.with_mtp = true;
  try {
    return {Checkpoint::load(folder, options), {}};
  } catch (const Error& with_block) {
    options.with_mtp = false;
    auto without = Checkpoint::load(folder, options);  // or it was not the block's fault
    return {std::move(without), with_block.what()};
  }
}

}  // namespace fathom
