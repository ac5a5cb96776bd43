// What is fixed when the kernel of the indexer's scores is compiled, and how its shared memory is
// laid out. Seen by host code too: it sizes tensor maps and launches.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/indexer/index_scores_plan.h"
#include "kernels/cuda/prim/launch.h"

namespace fathom::cuda {

// kHeads is padded (8, 32 or 64). A tile is one page of keys (64 rows of wgmma) against kColumns =
// queries x heads, once (decode) or twice (prefill: the second product runs under the first one's
// epilogue).
template <bool kFp8_, int kHeads_, bool kPrefill_, int kDecodeQueries = 1>
struct IndexShape {
  static constexpr bool kFp8 = kFp8_, kPrefill = kPrefill_;
  static constexpr int kHeads = kHeads_;
  static constexpr int kWarpgroups = kPrefill ? 2 : (kDecodeQueries == 1 ? 4 : 3);
  static constexpr int kThreads =
      kWarpgroups * 128 + (kPrefill ? 128 : 32);  // and one producer warp
  static constexpr int kColumns = kPrefill ? index_prefill_columns(kFp8) : kHeads * kDecodeQueries;
  static constexpr int kHalves = kPrefill ? 2 : 1;
  static constexpr int kHalfQueries = kColumns / kHeads;
  static constexpr int kQueries = kHalves * kHalfQueries;
  static constexpr int kSegments = kFp8 ? 1 : 2;  // pieces of 128 bytes in a row
  // The 64 scales of an fp8 page come as two more rows of the same box.
  static constexpr int kPageBytes = kPageRows * 128 * kSegments + (kFp8 ? kPageRows * 4 : 0);
  static constexpr int kStageBytes = (kPageBytes + 1023) / 1024 * 1024;
  static constexpr int kSegmentBytes = kQueries * kHeads * 128;
  static constexpr int kQueryBytes = kSegmentBytes * kSegments;
  // Prefill: a math warpgroup holds on to a page until it has the next one, and a stage of queries
  // is reused when its pages are back. So two younger groups must fit, or all would wait.
  static constexpr int kQueryStages = kPrefill || !kFp8 ? 3 : 4;
  static_assert(!kPrefill || kQueryStages > kWarpgroups);
  static constexpr int kKeyStages = kFp8 ? 12 : (kPrefill ? 5 : 7);
};

// One unit of work, told by the producer to the warpgroup that takes it.
struct alignas(8) IndexWork {
  int first_key;  // position of the page's first key
  int group;      // number of the queries' group within this CTA; -1: no more work
};

// Whose queries a group has: as the stage that holds them.
struct IndexGroup {
  int row;       // first token
  int rows;      // tokens
  int position;  // of the first token
};

template <class S>
struct IndexShared {
  alignas(1024) uint8_t keys[S::kKeyStages][S::kStageBytes];
  alignas(1024) uint8_t queries[S::kQueryStages][S::kQueryBytes];
  alignas(16) float weights[S::kQueryStages][S::kQueries * S::kHeads];
  IndexWork work[S::kKeyStages];
  IndexGroup group[S::kQueryStages];
  uint64_t key_full[S::kKeyStages], key_empty[S::kKeyStages];
  uint64_t query_full[S::kQueryStages];
};

// The dynamic part of shared memory starts anywhere; the swizzle wants multiples of 1024.
template <class S>
constexpr size_t index_shared_bytes() {
  return sizeof(IndexShared<S>) + 1024;
}

struct IndexArgs {
  const float* head_weight;  // [tokens, heads]
  int heads, tokens;
  const int32_t* page_tables;  // [sequences, max_pages]
  int max_pages;
  const int32_t* sequence_of;  // [tokens]
  const int32_t* positions;    // [tokens]
  float* scores;               // [tokens, stride]
  int64_t stride;
  int begin, end;  // tokens (decode)
};

// Launches the instantiation for (fp8, padded heads). Maps have boxes as in index_scores.cpp.
void launch_index_decode(const IndexArgs& args, bool fp8, int padded_heads, bool pairs, int grid,
                         const CUtensorMap& keys, const CUtensorMap& queries, const Launch& l);
void launch_index_prefill(const IndexArgs& args, const IndexPrefillPlan& plan, bool fp8,
                          int padded_heads, int grid, const CUtensorMap& keys,
                          const CUtensorMap& queries, const Launch& l);

}  // namespace fathom::cuda
