// Every rank's piece of a matrix, written to every rank.
#pragma once

#include "kernels/cuda/comm/peer_view.h"
#include "kernels/cuda/prim/launch.h"

namespace fathom::cuda {

// This rank's piece is `rows` rows of `bytes` bytes; it goes to byte `at` of everybody's `out`, in
// rows `out_pitch` bytes apart. Pieces may differ between ranks (rows 0: none) and may not overlap;
// `out` has the same layout everywhere. Sizes, pitches, `at` and addresses are multiples of 4
// bytes; multiples of 16 are faster.
struct PeerGatherParams {
  PeerView peers;
  const void* piece = nullptr;
  void* out = nullptr;
  int64_t rows = 0, bytes = 0;
  int64_t piece_pitch = 0, out_pitch = 0, at = 0;
};

void peer_gather(const PeerGatherParams& p, const Launch& l);

// See load_peer_sums().
void load_peer_gathers();

}  // namespace fathom::cuda
