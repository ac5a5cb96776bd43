// The batch of one step as ops see it, and where the cache rows of its tokens lie.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "numerics/cache_rows.h"
#include "numerics/modes.h"

namespace fathom {

// Tokens [begin, end) of the batch: consecutive positions of one sequence, one attention form.
struct AttentionSpan {
  int begin, end;
  int sequence;
  AttentionForm form;
};

// Which tokens of a step one of several ranks computes, for ops whose rows are independent. Blocks
// of kBlock tokens go to the ranks in turn, because late tokens of a prompt cost more than early
// ones.
struct RowShare {
  static constexpr int kBlock = 64;
  int part = 0, parts = 1;
  bool has(int token) const { return token / kBlock % parts == part; }
  // count(): how many of `tokens` this part has. token(): the index of its i-th token among all.
  int count(int tokens) const {
    const int round = kBlock * parts, rest = tokens % round - kBlock * part;
    return tokens / round * kBlock + (rest < 0 ? 0 : rest < kBlock ? rest : kBlock);
  }
  int token(int i) const { return (i / kBlock * parts + part) * kBlock + i % kBlock; }
};

// The tokens of one step in one list: prefill chunks and decodes of several sequences, one after
// another.
struct BatchView {
  int tokens = 0;
  int sequences = 0;
  const int32_t* positions = nullptr;    // [tokens] position in its own sequence
  const int32_t* sequence_of = nullptr;  // [tokens]
  const int32_t* page_tables = nullptr;  // [sequences, max_pages]
  int max_pages = 0;
  std::span<const AttentionSpan> spans;  // in order, covering every token
  // The rows that index_topk must compute. It may compute others, too; they are overwritten with
  // the results of another rank.
  RowShare index_rows = {};

  const int32_t* page_table(int sequence) const {
    return page_tables + static_cast<int64_t>(sequence) * max_pages;
  }
  // Cache row of position `pos` of the sequence that token `t` belongs to.
  int64_t cache_row(int t, int64_t pos) const { return row_of(page_table(sequence_of[t]), pos); }
};

// The inputs of one step. The first `live` tokens are real. The tokens after them pad the step to a
// size for which a GPU has a recorded graph: they have position 0 of a sequence of their own and
// are routed to no expert.
struct StepInputs {
  BatchView batch;
  int live = 0;
  const int32_t* ids = nullptr;         // [batch.tokens]
  std::span<const int32_t> logit_rows;  // tokens whose logits are wanted
};

// The cache of one layer: two arrays of rows, addressed through the same page tables.
struct KvView {
  std::byte* latent = nullptr;  // [rows] of latent_stride bytes
  std::byte* index = nullptr;   // [pages], see index_value_bytes(); null in a model without indexer
  KvFormat latent_format = KvFormat::bf16;
  KvFormat index_format = KvFormat::bf16;       // follows the numerics: f32, bf16 or fp8
  int64_t latent_stride = 0, index_stride = 0;  // bytes of a token
  int latent_dim = 0, rope_dim = 0, index_dim = 0;
  bool ue8m0 = true;  // scale format of fp8 rows

  std::byte* latent_row(int64_t row) const { return latent + row * latent_stride; }

  // A page of index rows holds the values of its kPageRows tokens, followed (fp8) by all their
  // scales. So a GPU's copy engine fetches the codes of a page as one box, and a CPU reads them as
  // one stream.
  int64_t index_value_bytes() const {
    return index_format == KvFormat::fp8 ? index_dim : index_stride;
  }
  std::byte* index_page(int64_t page) const { return index + page * kPageRows * index_stride; }
  std::byte* index_row(int64_t row) const {
    return index_page(row / kPageRows) + row % kPageRows * index_value_bytes();
  }
  // Scales of an fp8 row, one per 128 values.
  std::byte* index_scales(int64_t row) const {
    return index_page(row / kPageRows) + kPageRows * index_value_bytes() +
           row % kPageRows * (index_stride - index_value_bytes());
  }
};

// Rotation table: cos and sin of position * frequency, [positions, dim / 2] each. Angles are
// float32 products, as in the reference.
struct RopeTable {
  const float* cos = nullptr;
  const float* sin = nullptr;
  int dim = 0;
  int64_t positions = 0;
  const float* cos_at(int64_t pos) const { return cos + pos * (dim / 2); }
  const float* sin_at(int64_t pos) const { return sin + pos * (dim / 2); }
};

}  // namespace fathom
