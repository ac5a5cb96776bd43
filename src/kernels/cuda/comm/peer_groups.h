// Rows of several groups of ranks that share experts: to the ranks that hold the experts of a row,
// and what these make of it back to the group that the row came from.
//
// Each rank has a block of memory with room for the rows of all groups, one group after the other,
// laid out alike everywhere. A row keeps its place in it on every rank, so no count has to be
// exchanged with the rows, and a rank finds in its own ids which places hold something for it.
#pragma once

#include "kernels/cuda/comm/peer_view.h"
#include "kernels/cuda/prim/launch.h"

namespace fathom::cuda {

// Experts are spread evenly: rank r of R has [r E / R, (r + 1) E / R) of E.
struct ExpertOwners {
  int experts = 0, ranks = 1;
  FATHOM_HD int of(int expert) const {
    return static_cast<int>((int64_t{expert + 1} * ranks + experts - 1) / experts) - 1;
  }
};

// CTAs of an exchange of groups that bring `rows` rows each at most: the same on every rank.
int group_lanes(const PeerView& peers, int64_t rows);

// This rank's rows into the blocks of the others: ids and weights to all, the row itself (with its
// scales) to the ranks that hold one of its experts.
struct GroupGatherParams {
  PeerView peers;
  int lanes = 0;               // group_lanes()
  std::byte* block = nullptr;  // this rank's; places below are offsets in everybody's, in bytes
  int first = 0, rows = 0;     // this rank's rows; the first of them is row `first` of all
  // False: rows of a group that has nothing to compute. No expert is chosen, and no row is read.
  bool live = true;

  const std::byte* from = nullptr;  // [rows] of row_bytes, from_pitch apart; go to row * row_bytes
  int64_t from_pitch = 0;
  int row_bytes = 0;              // a multiple of 16, as are addresses and pitches
  const float* scales = nullptr;  // of codes: group g of row r at scales[g * scale_stride + r],
  int64_t scale_stride = 0;       // goes to scales_at, [rows of all, scale_groups]
  int scale_groups = 0;           // 0: no scales
  int64_t scales_at = 0;

  const int32_t* ids = nullptr;    // [rows, per_token], -1: no expert; go to ids_at, as weights to
  const float* weights = nullptr;  // weights_at
  int per_token = 0;               // at most 32
  int64_t ids_at = 0, weights_at = 0;
  ExpertOwners owners;
};
void group_gather(const GroupGatherParams& p, const Launch& l);

// For each row of this rank's group: what the group's ranks have of it, then what the ranks that
// hold its experts have, each in rank order, added in float32 and rounded once; written to every
// rank of the group. The ranks of a group take its rows in turn.
struct GroupSumParams {
  PeerView peers;
  int lanes = 0;
  int group = 1;                 // ranks of a group
  std::byte* block = nullptr;    // as above
  int64_t own_at = 0;            // [rows, n] bf16, contiguous: the group's; the sums go there
  int64_t parts_at = 0;          // [rows of all, n] bf16
  int first = 0, rows = 0;       // the group's rows; the first is row `first` of all
  int n = 0;                     // a multiple of 8, at most 16,384
  const int32_t* ids = nullptr;  // [rows, per_token] of the group's rows
  int per_token = 0;
  ExpertOwners owners;
};
void group_sum(const GroupSumParams& p, const Launch& l);

// See load_peer_sums().
void load_group_exchanges();

}  // namespace fathom::cuda
