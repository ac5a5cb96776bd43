// Sums over the ranks of a PeerView: of rows of bf16, in float32, in the order of the ranks,
// rounded once. Every rank ends with the same bits, and a row's bits depend neither on the other
// rows nor on the way that is taken:
//   one-shot  every rank writes its rows into every other's memory; a packet of 16 bytes is its own
//             flag, so that a sum costs one way through the link. Small sums. The same kernel goes
//             on to the residual sum, the norm and its FP8 form of norm.h, where wanted.
//   two-shot  each rank reads its share of the rows from all others, and writes the sums to all.
//   The
//             norm follows as a kernel of its own, which has more threads for it.
#pragma once

#include "kernels/cuda/comm/peer_view.h"
#include "kernels/cuda/norm/norm.h"
#include "kernels/cuda/prim/launch.h"

namespace fathom::cuda {

enum class PeerSumWay : uint8_t { by_size, one_shot, two_shot };

struct PeerSumParams {
  PeerView peers;
  Bf16* x = nullptr;  // [rows, n], rows x_stride apart: this rank's part of the sum
  int rows = 0, n = 0;
  int64_t x_stride = 0;
  // The norm of the sums: its x, rows and n are those above. Without a gain the sums go to x;
  // with one, x keeps nothing of use.
  RmsNormParams norm;
};

// By size: one-shot for as many rows as the group has room for.
void peer_sum(const PeerSumParams& p, PeerSumWay way, const Launch& l);

// Loads the kernels on the current device: loading may wait for what runs there, which may be an
// exchange that waits for this rank.
void load_peer_sums();

}  // namespace fathom::cuda
