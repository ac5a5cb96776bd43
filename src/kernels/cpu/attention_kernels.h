// The inner kernels of attention and indexer, one table per instruction set. Like gemm.h: plain
// data and function pointers only, because the files that define the tables are compiled for
// processors that others do not have.
//
// A *word* is 32 bits of a row: one float32, or two consecutive bf16 where the processor multiplies
// such pairs. On other processors bf16 numerics use float32 words that hold bf16 values; cache rows
// are still read as bf16. Products take their second operand as a panel: for each word of the
// summed dimension, 64 columns side by side. So every lane of a register is one output and sums its
// products in ascending order: a result depends on its own row and column only, never on how many
// rows or columns are computed together.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fathom {

inline constexpr int kPanelWidth = 64;  // columns of a panel, keys of a tile
// Where the running maximum of a softmax starts: below every score, and no infinity, so that
// differences stay finite.
inline constexpr float kNoScore = -3.0e38f;
inline constexpr float kLog2E = 1.4426950408889634f;  // folded into the scale: weights are 2^x
inline constexpr int kMaxMixRows = 6;                 // of one pass over the rows

// c[r][0 .. 64) = carry[r] * c[r] + a[r] . b           (without `carry`: = a[r] . b)
struct PanelProduct {
  const void* a;  // rows of `words`
  int64_t lda;    // in words, as every stride here
  const void* b;  // [words][64]
  int64_t ldb;
  int words;
  float* c;
  int64_t ldc;
  int rows;
  const float* carry;
};

// out[h][i] = q[h] . rows[i], summed in 16 lanes and then over the lanes in a fixed tree.
struct RowDots {
  const void* q;  // [heads] of `words`, a multiple of 16
  int64_t ldq;
  int heads;
  const void* const* rows;  // readable, like the rows of `out`, up to the next multiple of 16
  int count;
  int words;
  float* out;
  int64_t ldo;
  bool bf16_rows;  // q is of float32 words, `rows` are bf16
};

// c[r] = carry[r] * c[r] + a[r] . b for rows of b as they lie in memory, bit-equal to `product`
// with them as its panel (for pairs: what pack_pairs makes of them). Faster than `product` if c has
// few rows.
struct RowMix {
  const void* a;  // [rows] of `words`
  int64_t lda;
  const void* const*
      b;               // [words] rows of float32, or [2 * words] rows of bf16 where words are pairs
  int words, columns;  // columns: a multiple of 64
  float* c;
  int64_t ldc;
  int rows;
  const float* carry;
  bool bf16_rows;  // a is of float32 words, the rows of b are bf16
};

// c[r][0 .. 128) = scale * a[r] . b for rows of one block of FP8 weights, expanded in registers.
// For few rows of a. Bit-equal to `product` with the weights as its panel; where words are float32,
// only for a `scale` that is a power of two far from the ends of float32's range.
inline constexpr int kCodeColumns = 128;
struct CodeMix {
  const void* a;  // [rows] of `words`
  int64_t lda;
  const uint8_t*
      code;  // [words] rows of 128 codes, or [2 * words] where words are pairs, `ld` apart
  int64_t ld;
  int words;
  float scale;
  bool fit_for_words;  // no code is NaN and few are subnormal (kernels/cpu/words.h)
  float* c;
  int64_t ldc;
  int rows;
};

// out[h][i] = q[h] . rows[i] for rows of one block of FP8 weights, expanded in registers. For few
// heads. Bit-equal to `dots` with the weights rounded to bf16.
inline constexpr int kMaxCodeBlocks = 4;
struct CodeDots {
  const void* q;  // [heads] of `words`
  int64_t ldq;
  int heads;
  const uint8_t* code;  // [count] rows of 2 * `words` codes, `ld` apart
  int64_t ld;
  int count, words;    // multiples of 16 and of 64; at most 64 * kMaxCodeBlocks words
  const float* scale;  // of each 128 codes of the rows
  float* out;
  int64_t ldo;
};

// One step of an online softmax over a tile of 64 keys. Scores outside a row's mask weigh exactly
// 0; a row with an empty mask keeps its state.
struct SoftmaxTile {
  const float* scores;    // [rows][64]
  const uint64_t* masks;  // of row r: masks[r * mask_stride]
  int mask_stride;        // 0: one mask for all rows
  int rows;
  float scale;    // times log2(e): weights are powers of 2
  float* top;     // [rows] greatest scaled score so far
  float* sum;     // [rows] sum of the weights so far
  float* carry;   // [rows] out: what earlier results are to be multiplied by
  void* weights;  // [rows][64] out, in the element type
};

// out[r][s] = key_scale[s] * sum over heads of max(q[r][h] . key[s], 0) * head_weight[r][h]
struct IndexTile {
  const void* q;  // [rows] of `heads` times `words`
  int64_t ldq;
  const float* head_weight;
  int64_t ldw;
  int heads, words;        // words: of q
  const void* keys;        // panel of 64 keys
  bool bf16_keys;          // words of q are float32, those of `keys` pairs of bf16
  const float* key_scale;  // [64], or null
  int rows;
  float* out;
  int64_t ldo;
  // Keys to prefetch, spread over the products of the first row: processors drop prefetches that
  // come faster than memory delivers. May be null.
  const std::byte* ahead;
  int64_t ahead_bytes;
};

// The kernels that differ by element type.
struct ElementKernels {
  void (*product)(const PanelProduct&);
  void (*dots)(const RowDots&);
  void (*mix)(const RowMix&);
  void (*softmax)(const SoftmaxTile&);
  void (*index)(const IndexTile&);
  // Returns false if a code is NaN and the result is therefore not valid. Null where `product` sums
  // in another order.
  bool (*mix_codes)(const CodeMix&);
  void (*dot_codes)(const CodeDots&);  // null where words are no pairs
};

struct AttentionKernels {
  const char* name;
  ElementKernels f32, bf16;
  // Whether the words of `bf16` are pairs; else they are float32 with weights rounded to bf16.
  bool pairs;
  // Whether `mix` of pairs sums in the order of `product`, so that either may be used.
  bool mixes_pairs;

  // out[w][i] = word w of rows[i], i < 64; a null row reads as zeros. `words` a multiple of 16.
  void (*pack_lanes)(const void* const* rows, int words, uint32_t* out);
  // Where words are pairs, null elsewhere: bf16 rows 2p and 2p + 1 side by side, out[p][c] =
  // (rows[2p][c], rows[2p + 1][c]);
  void (*pack_pairs)(const void* const* rows, int pairs, int columns, uint32_t* out, int64_t ldo);
  // the same from float32 rows of 64 columns, rounded to bf16;
  void (*round_pairs)(const float* c, int64_t ldc, int pairs, uint32_t* out, int64_t ldo);
  // and from rows 2 * pairs of one weight block.
  void (*dequantise_pairs)(const uint8_t* code, int64_t ld, int pairs, float scale, uint32_t* out,
                           int64_t ldo);
  // rows x 128 codes of one weight block, rounded to bf16 or as float32.
  void (*dequantise_bf16)(const uint8_t* code, int64_t ld, int rows, float scale, uint16_t* out,
                          int64_t ldo);
  void (*dequantise_f32)(const uint8_t* code, int64_t ld, int rows, float scale, float* out,
                         int64_t ldo);
  // out = bf16(x * scale + 0), which turns -0 into +0; n a multiple of 16.
  void (*to_bf16)(const float* x, int64_t n, float scale, uint16_t* out);
  // The same as float32; `out` may be x.
  void (*to_rounded)(const float* x, int64_t n, float scale, float* out);
  // out = bf16(x), every bit as numerics/bf16.h has it.
  void (*round)(const float* x, int64_t n, uint16_t* out);
  void (*to_f32)(const uint16_t* x, int64_t n, float* out);

  // Top-k (topk.h). keys[i] = order_key(score[i]) and their least and greatest.
  void (*order_keys)(const float* score, int64_t n, uint32_t* keys, uint32_t* least,
                     uint32_t* greatest);
  int64_t (*count_at_least)(const uint32_t* keys, int64_t n, uint32_t bound);
  // Copies the keys that are >= bound (or < bound) to `out`, which may be `keys`; returns how many.
  int64_t (*keep)(const uint32_t* keys, int64_t n, uint32_t bound, bool at_least, uint32_t* out);
  // Positions of all keys > bound and of the first `ties` keys == bound, ascending.
  void (*emit)(const uint32_t* keys, int64_t n, uint32_t bound, int64_t ties, int32_t* out);
};

// The bf16 kernels that use tiles: need AMX with bf16.
void multiply_panel_by_tiles(const PanelProduct& g);

extern const AttentionKernels kAttentionAmx;        // that and the rest of kAttentionAvx512
extern const AttentionKernels kAttentionAvx512;     // needs AVX-512 F/BW/VL/DQ, VBMI, BF16
extern const AttentionKernels kAttentionAvx512F32;  // needs AVX-512 F/BW/VL/DQ, F16C
extern const AttentionKernels kAttentionAvx2;       // needs AVX2, FMA

}  // namespace fathom
