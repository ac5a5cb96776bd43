// Shared memory of the few-rows FP8 kernel, computed by the same code on the host and on the
// device. In this order:
//
// - ring: for each stage 64 * groups rows of weights and `tokens` rows of activations, 128 codes
//   each, in the 128-byte swizzle
// - scales: for each stage the activation scales of `tokens` rows
// - stash: results on their way out, for each group `tokens` rows of 64 bf16 and padding
// - barriers: full[stages], empty[stages]
// - table (grouped): first row tile and first row of every expert
//
// With split K the ring, empty by then, holds the float32 partial tile.
#pragma once

#include <cstddef>
#include <cstdint>

#include "numerics/host_device.h"

namespace fathom::cuda {

struct FewLayout {
  static constexpr int kSlice = 128;  // codes along k in a stage
  static constexpr int kMaxStages = 32;
  static constexpr int kStashPitch = 144;  // bytes: 64 bf16 and 16 against bank conflicts
  static constexpr int kPartialPad = 4;    // floats after each token of the partial tile

  // What the register file allows: two CTAs of an SM let the next kernel's weights stream while
  // this one drains; a second set of partial sums hides the promotion.
  static FATHOM_HD constexpr int ctas_per_sm(int tokens, int groups) {
    return tokens * groups <= 128 && tokens < 128 ? 2 : 1;
  }
  static FATHOM_HD constexpr bool pipelined(int tokens, int groups) {
    return tokens * groups <= (tokens == 128 ? 128 : 64);
  }

  static FATHOM_HD constexpr size_t stage_bytes(int tokens, int groups) {
    return static_cast<size_t>(64 * groups + tokens) * kSlice;
  }
  // Four more than tokens, for a start at a multiple of four rows; rounded to the 128 bytes at
  // which the copy engine wants its destinations.
  static FATHOM_HD constexpr size_t stage_scale_bytes(int tokens) {
    return static_cast<size_t>((tokens + 4) * 4 + 127) / 128 * 128;
  }
  static FATHOM_HD constexpr size_t partial_bytes(int tokens, int groups) {
    return static_cast<size_t>(tokens) * (64 * groups + kPartialPad) * 4;
  }

  static FATHOM_HD constexpr size_t ring_bytes(int tokens, int groups, int stages) {
    const size_t ring = stages * stage_bytes(tokens, groups);
    const size_t partial = partial_bytes(tokens, groups);
    return ring > partial ? ring : partial;
  }

  size_t scales, stash, barriers, table, total;

  FATHOM_HD constexpr FewLayout(int tokens, int groups, int stages, int experts)
      : scales(ring_bytes(tokens, groups, stages)),
        stash(scales + stages * stage_scale_bytes(tokens)),
        barriers(stash + static_cast<size_t>(groups) * tokens * kStashPitch),
        table(barriers + static_cast<size_t>(stages) * 16),
        total(table + (experts ? static_cast<size_t>(experts + 1) * 8 : 0) + 1024) {}
  // The last 1024 bytes allow for aligning the ring, which dynamic shared memory does not promise.
};

}  // namespace fathom::cuda
