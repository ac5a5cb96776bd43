// The bundled model and random prompts for it.
#pragma once

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "model/checkpoint.h"

namespace fathom::test {

// The bundled checkpoint without its MTP block, mapped once a process.
inline const Checkpoint& small() {
  static const std::unique_ptr<Checkpoint> checkpoint = Checkpoint::load(
      std::string(FATHOM_SOURCE_DIR) + "/models/small", {.config_file = "", .with_mtp = false});
  return *checkpoint;
}

// `n` ids below `vocab`, the same for the same `seed`.
inline std::vector<int32_t> random_ids(int n, unsigned seed, int vocab = 4000) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % static_cast<unsigned>(vocab));
  return ids;
}

}  // namespace fathom::test
