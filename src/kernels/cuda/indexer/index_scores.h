// Scores of the lightning indexer, for the selection of keys that follows:
//
//   score[t, s] = key_scale[s] * sum over heads h of relu(q[t, h] . k[s]) * head_weight[t, h]
//
// for every position s up to the token's own. What a row of `scores` holds beyond that is not
// written: the selection is given lengths.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cuda/prim/launch.h"

namespace fathom::cuda {

struct IndexScoresParams {
  const void* q = nullptr;  // [tokens, index_heads, 128] e4m3 codes (fp8) or bf16, 16-byte aligned
  bool fp8 = true;
  const float* head_weight = nullptr;  // [tokens, index_heads], holds every scale of the query
  int tokens = 0;
  int index_heads = 0;  // 1..64; 8, 32 and 64 without waste
  // Pages of 64 keys: 64 x 128 e4m3 codes and then 64 float scales, or 64 x 128 bf16.
  const std::byte* pages = nullptr;
  int64_t page_count = 0;                // pages of the cache (bound of the page numbers)
  const int32_t* page_tables = nullptr;  // [sequences, max_pages]
  int max_pages = 0;
  const int32_t* sequence_of = nullptr;  // [tokens]
  const int32_t* positions = nullptr;    // [tokens]
  float* scores = nullptr;               // [tokens, stride]
  int64_t stride = 0;                    // floats between rows, >= max_context
  int64_t max_context = 0;               // positions[t] < max_context <= max_pages * 64
};

// Tokens [begin, end) with consecutive positions of one sequence, the last one context - 1. Known
// to the host, so not for a step that is captured once and replayed with other lengths.
struct IndexSpan {
  int begin, end;
  int sequence;
  int64_t context;
};

// Scores of tokens [begin, end), each on its own: limited by reading the keys. The work is cut on
// the device by what positions[] says, the grid depends on host sizes only. Reads positions,
// sequence_of and page_tables before it waits for the kernel launched just before it: that one
// must not write them. With `pairs`, tokens begin + 2 i
// and begin + 2 i + 1 read their keys together where they are neighbours in one sequence.
void index_scores_decode(const IndexScoresParams& p, int begin, int end, const Launch& l,
                         bool pairs = false);

// Scores of whole spans, several queries to a tile of keys: limited by the tensor cores.
void index_scores_prefill(const IndexScoresParams& p, std::span<const IndexSpan> spans,
                          const Launch& l);

// Chooses by the length of each span; a row's bits do not depend on the choice. `spans` are in
// order and cover the tokens that are wanted.
void index_scores(const IndexScoresParams& p, std::span<const IndexSpan> spans, const Launch& l);

}  // namespace fathom::cuda
