// The cache rows of one token in one layer: a latent row and an indexer row. Prefill and decode
// write and read them; kept prompts store them. The two rows of a token are always copied and
// dropped together.
#pragma once

#include <cstddef>
#include <cstdint>

#include "numerics/bf16.h"
#include "numerics/fp8.h"

namespace fathom {

// Dims the fast kernels are compiled for (architecture.md, decision 3); the reference takes any.
struct KernelDims {
  static constexpr int kLatent = 512, kRope = 64, kNope = 128, kValue = 128, kIndex = 128;
  static constexpr int kRow = kLatent + kRope, kQuery = kNope + kRope;
};

// The latent row of an fp8 cache. A latent value is code * scale. The rope part is stored after
// rotation, in bf16: fp8 would lose too much of it.
struct LatentRowFp8 {
  uint8_t code[KernelDims::kLatent];
  float scale[KernelDims::kLatent / kFp8Block];
  Bf16 rope[KernelDims::kRope];
};
static_assert(sizeof(LatentRowFp8) == 656 && offsetof(LatentRowFp8, scale) == 512 &&
              offsetof(LatentRowFp8, rope) == 528);

// Tokens of a page. Token `pos` of a sequence lives in row pos % kPageRows of page_table[pos /
// kPageRows].
inline constexpr int kPageRows = 64;

// Indexer keys of one page, fp8 numerics: 132 bytes per token.
struct IndexPageFp8 {
  uint8_t code[kPageRows][KernelDims::kIndex];
  float scale[kPageRows];
};
static_assert(sizeof(IndexPageFp8) == 132 * kPageRows);

// Formats of the latent rows (`--kv`). bf16 and f32 rows are [latent | rope] in that type.
enum class KvFormat : uint8_t { f32, bf16, fp8 };

// Bytes of a latent row for any dims; LatentRowFp8 is the case latent = 512, rope = 64.
constexpr int64_t latent_row_bytes(KvFormat format, int latent, int rope) {
  switch (format) {
    case KvFormat::f32:
      return 4LL * (latent + rope);
    case KvFormat::bf16:
      return 2LL * (latent + rope);
    case KvFormat::fp8:
      return latent + 4LL * ((latent + kFp8Block - 1) / kFp8Block) + 2LL * rope;
  }
  return 0;
}

// Indexer keys: f32 and bf16 rows are plain; fp8 rows are codes and one scale per 128.
constexpr int64_t index_row_bytes(KvFormat format, int dim) {
  switch (format) {
    case KvFormat::f32:
      return 4LL * dim;
    case KvFormat::bf16:
      return 2LL * dim;
    case KvFormat::fp8:
      return dim + 4LL * ((dim + kFp8Block - 1) / kFp8Block);
  }
  return 0;
}
static_assert(latent_row_bytes(KvFormat::fp8, 512, 64) == sizeof(LatentRowFp8));
static_assert(index_row_bytes(KvFormat::fp8, 128) * kPageRows == sizeof(IndexPageFp8));

FATHOM_HD inline int64_t row_of(const int32_t* page_table, int64_t pos) {
  return int64_t{page_table[pos / kPageRows]} * kPageRows + pos % kPageRows;
}

}  // namespace fathom
