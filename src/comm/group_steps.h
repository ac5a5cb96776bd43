// What ranks of GPUs agree on before a step of several groups (Comm::agree).
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "comm/comm.h"

namespace fathom {

// `said`: by rank, the size of its group's step. Returns the step that this rank's group takes, and
// sets offsets[g] to the first row of group g among those of all; the last entry is their number.
inline GroupStep agree_on(std::span<const GroupStep> said, const GroupStep& own, int group,
                          std::vector<int64_t>& offsets) {
  GroupStep agreed{0, true};
  for (const GroupStep& step : said) {
    agreed.rows = std::max(agreed.rows, step.rows);
    agreed.padded &= step.padded;
  }
  offsets.assign(1, 0);
  for (size_t r = 0; r < said.size(); r += static_cast<size_t>(group))
    offsets.push_back(offsets.back() + (agreed.padded ? agreed.rows : said[r].rows));
  if (!agreed.padded) agreed.rows = own.rows;
  return agreed;
}

}  // namespace fathom
