// The parts of an exchange of groups (peer_groups.h) that a rank does by itself where it cannot
// reach the memory of the others: the rows travel by other means, to the same places.
#pragma once

#include "kernels/cuda/comm/peer_groups.h"

namespace fathom::cuda {

// This rank's rows to their places in its own block alone. `peers`, `lanes` and `owners` are not
// used.
void place_rows(const GroupGatherParams& p, const Launch& l);

// The sums of group_sum() for rows of which all parts have come.
struct ExpertPartSumParams {
  // Rows of n bf16. Of another rank they lie at received + place * stride + row * n, of this rank
  // at own and parts.
  const Bf16* received = nullptr;
  int64_t stride = 0;
  int rank = 0, ranks = 1;  // part of rank r: place r
  int group = 1;            // what the i-th rank of the group has of a row: place ranks + i
  Bf16* own = nullptr;      // this rank's; the sums go there
  const Bf16* parts = nullptr;
  int rows = 0, n = 0;           // n: a multiple of 8, at most 16,384
  const int32_t* ids = nullptr;  // [rows, per_token], -1: no expert
  int per_token = 0;             // at most 32
  ExpertOwners owners;           // of at most 32 ranks
};
void sum_expert_parts(const ExpertPartSumParams& p, const Launch& l);

}  // namespace fathom::cuda
