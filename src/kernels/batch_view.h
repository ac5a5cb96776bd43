// What an op needs to know of the flat batch of one step, and where a token's cache rows lie.
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

// One step's tokens, flat: prefill chunks and decodes of several sequences one after another.
struct BatchView {
  int tokens = 0;
  int sequences = 0;
  const int32_t* positions = nullptr;    // [tokens] position in its own sequence
  const int32_t* sequence_of = nullptr;  // [tokens]
  const int32_t* page_tables = nullptr;  // [sequences, max_pages]
  int max_pages = 0;
  std::span<const AttentionSpan> spans;  // in order, covering every token

  const int32_t* page_table(int sequence) const {
    return page_tables + static_cast<int64_t>(sequence) * max_pages;
  }
  // Cache row of position `pos` of the sequence that token `t` belongs to.
  int64_t cache_row(int t, int64_t pos) const { return row_of(page_table(sequence_of[t]), pos); }
};

// The cache of one layer: two arrays of rows, addressed through the same page tables.
struct KvView {
  std::byte* latent = nullptr;  // [rows] of latent_stride bytes
  std::byte* index = nullptr;   // [rows] of index_stride bytes; null in a model without indexer
  KvFormat latent_format = KvFormat::bf16;
  KvFormat index_format = KvFormat::bf16;  // follows the numerics: f32, bf16 or fp8
  int64_t latent_stride = 0, index_stride = 0;
  int latent_dim = 0, rope_dim = 0, index_dim = 0;
  bool ue8m0 = true;  // scale format of fp8 rows

  std::byte* latent_row(int64_t row) const { return latent + row * latent_stride; }
  std::byte* index_row(int64_t row) const { return index + row * index_stride; }
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
