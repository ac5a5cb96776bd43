// Attention and indexer of the fast CPU implementations. One file per topic:
//   attention_cache.cpp     rotations, cache entries, indexer queries
//   attention_index.cpp     index scores and top-k
//   attention_expanded.cpp  keys and values per head (prefill at short contexts)
//   attention_absorbed.cpp  attention in latent space (decode, long contexts)
//
// Every result depends on its own token alone, bit for bit: sums run in an order fixed by the dims,
// softmax tiles start at positions (or picks) that are multiples of 64, and threads divide whole
// outputs. Two things differ from the reference: the order of sums, and, in the expanded form in
// bf16, the weights of the online softmax are rounded before they are normalised.
#pragma once

#include <vector>

#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/linear_ops.h"
#include "tensor/buffer.h"

namespace fathom {

class AttentionOps : public LinearOps {
 public:
  AttentionOps(Numerics numerics, const Workload& workload, ThreadPool& pool,
               const GemmKernels& gemm, const AttentionKernels& kernels);

  void rope_query(Tensor q, const BatchView& batch, const RopeTable& rope) override;
  void append_latent(const KvView& kv, Tensor kv_a, const float* gain, float eps,
                     const BatchView& batch, const RopeTable& rope) override;
  void append_index_key(const KvView& kv, Tensor k, const LayerNormWeights& norm,
                        const BatchView& batch, const RopeTable& rope) override;
  void index_query(Tensor out, Tensor head_weight, Tensor q, const BatchView& batch,
                   const RopeTable& rope) override;
  void index_topk(Tensor picked, Tensor index_q, Tensor head_weight, const KvView& kv,
                  const BatchView& batch) override;
  void index_scores(Tensor scores, std::span<const int32_t> tokens, Tensor index_q,
                    Tensor head_weight, const KvView& kv, const BatchView& batch) override;
  void attend_expanded(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked, const KvView& kv,
                       const BatchView& batch, float scale) override;
  void attend_absorbed(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked, const KvView& kv,
                       const BatchView& batch, float scale) override;

 private:
  static constexpr int kQueryBlock = 48;  // rows of one expanded work item: 8 register blocks
  static constexpr int kTokenBlock = 64;  // rows of one product with a head's weights
  static constexpr int kMaxHeadBlock = 128;
  static constexpr int kMaxHeadGroup = 32;
  static constexpr int kFewHeads = 8;  // that share a row while it is read, as it lies

  // Memory that one thread needs. Sizes in words of the element type (attention_kernels.h).
  struct Scratch {
    uint32_t* rows;      // [64][latent + rope] converted cache rows
    uint32_t* kept;      // [kept_rows_][latent + rope] those of a token, between its two passes
    uint32_t* queries;   // [head group][query block][nope + rope] as float32 words
    uint32_t* lanes;     // rows as a panel
    uint32_t* weights;   // [128][latent] dequantised rows of kv_b
    uint32_t* panel;     // the same as a panel, or latent rows in pairs
    float* product;      // [128][64]
    float* scores;       // [rows][64]
    float* head_scores;  // [tiles of the context][head block][64]: one token's
    uint32_t* shares;    // [rows][64] softmax weights
    float* mixed;        // [head block][latent] attention output in latent space
    float *top, *sum, *carry;
    uint64_t* masks;
    uint32_t *keys, *active;  // [context]: top-k
  };

  // Consecutive tokens of one sequence whose scores are computed together.
  struct ScoreRows {
    int begin, end;
    int64_t tiles;       // key tiles up to the last token's position
    int64_t first_tile;  // tiles of the entries before this one
    int64_t offset;      // of the first row in the score buffer; rows are `tiles` tiles wide
  };

  // One call of attend_*.
  struct Attention {
    Tensor out, q;
    const KvUpWeights& up;
    Tensor picked;
    const KvView& kv;
    const BatchView& batch;
    float scale;  // times log2(e)
  };

  // The latent rows that one token attends to, in order. `asked`: how many of them have been
  // prefetched.
  struct PickedRows {
    PickedRows(const Attention& a, int t);
    int64_t position(int64_t i) const { return picks ? picks[i] : i; }
    void fetch(const Attention& a, int64_t end);

    int token;
    const int32_t* picks = nullptr;  // null: every position
    int64_t count = 0, asked = 0;
  };

  // The same with the heads that attend to them, and memory for what is made of them; threads may
  // share the work.
  struct AttendedRows {
    float* scores_at(int64_t row) const {
      return scores + row / kPanelWidth * kPanelWidth * heads + row % kPanelWidth;
    }

    const PickedRows& picked;
    int64_t at;  // the first head's row of q_latent_ and o_latent_
    int heads;
    float* scores;   // [tiles][heads][64]
    uint32_t* kept;  // [count][latent + rope] converted rows, or null: they are converted twice
  };

  // Cached rows of a tile as kernels take them.
  struct RowTile {
    const void* rows[kPanelWidth];
    bool bf16;  // words are float32, but these rows are bf16
  };

  // Part of a row.
  struct Columns {
    int begin, end;
  };
  static constexpr Columns kAllColumns{0, KernelDims::kLatent}, kAllValues{0, KernelDims::kValue};

  // The tokens and heads that the expanded form works on at a time.
  struct ExpandedBlock {
    int begin, end;             // tokens of one span
    int head, heads;            // heads [head, head + heads)
    int64_t first_tile, tiles;  // key tiles expanded at present
  };

  // A cached row as kernels read it: words of the element type, or bf16 if the words are float32.
  struct LatentRow {
    const void* data;
    bool bf16;
  };

  int64_t words(int64_t elements) const { return wide_ ? elements : elements / 2; }
  const ElementKernels& element() const { return exact_ ? attention_.f32 : attention_.bf16; }
  bool fits(const KvUpWeights& up, const KvView& kv) const;
  void plan_groups();
  void plan_scratch();
  void plan_shared();

  // attention_tiles.cpp
  void load_weights(const QWeight& w, int64_t row, int rows, uint32_t* out) const;
  bool lies_ready(const KvView& kv) const;
  LatentRow latent_row(const KvView& kv, int64_t row, uint32_t* scratch) const;
  const void* latent_words(const KvView& kv, int64_t row, uint32_t* scratch) const;
  void load_words(Tensor x, int token, int64_t element, int n, uint32_t* out) const;
  void round_words(const float* x, int64_t n, uint32_t* out) const;
  // Element `element` of a row of a tensor, for kernels that take words.
  static void* element_at(Tensor x, int token, int64_t element) {
    return static_cast<std::byte*>(x.data) +
           (token * x.row_stride + element) * static_cast<int64_t>(size_of(x.dtype));
  }
  void store_scaled(void* out, const float* x, int64_t n, float scale) const;
  const void* query_words(Tensor q, int token, int rows, int64_t element, int n, uint32_t* scratch,
                          int64_t& stride) const;

  // attention_cache.cpp
  void load_values(Tensor x, int64_t t, int64_t at, int n, float* out) const;
  void store_values(Tensor x, int64_t t, int64_t at, int n, const float* values) const;
  void round_values(float* x, int n) const;
  void write_values(std::byte* row, const float* x, int n, KvFormat format) const;

  // attention_index.cpp
  bool fits_index(Tensor index_q, const KvView& kv) const;
  const uint32_t* index_words(Tensor index_q, const BatchView& batch, int64_t& stride);
  void index_row_words(const void* from, bool fp8, int rows, uint32_t* out) const;
  void score_tile(const ScoreRows& rows, int64_t tile, const uint32_t* q, int64_t ldq,
                  Tensor head_weight, const KvView& kv, const BatchView& batch,
                  std::span<const std::byte> ahead, Scratch& s);
  void score_rows(const uint32_t* q, int64_t ldq, Tensor head_weight, const KvView& kv,
                  const BatchView& batch);
  void pick_rows(Tensor picked, const BatchView& batch);
  int add_score_rows(int begin, int end, const BatchView& batch);
  int64_t score_floats_used() const;

  // attention_absorbed.cpp
  const uint32_t* load_key_panel(const QWeight& w, int64_t row, Scratch& s) const;
  static bool one_code_block(const QWeight& w, int64_t row);
  bool absorb_codes(const QWeight& w, int64_t row, const void* nope, int64_t stride, int rows,
                    Columns columns, float* product) const;
  void attend_token(const Attention& a, int t);
  void attend_few_heads(const Attention& a, int t);
  void score_portions(const Attention& a, const AttendedRows& rows, int64_t first, int64_t last,
                      Scratch& s) const;
  void mix_columns(const Attention& a, const AttendedRows& rows, Columns columns, Scratch& s);
  void absorb_queries(const Attention& a, int begin, int end);
  void absorb_head_queries(const Attention& a, int begin, int end, int64_t h, Columns columns,
                           Scratch& s);
  void attend_latent(const Attention& a, int begin, int end);
  void attend_latent_heads(const Attention& a, int begin, PickedRows& picked, int head, int heads,
                           Scratch& s);
  bool mixes_rows(int heads) const {
    return wide_ ? heads <= kFewHeads : attention_.mixes_pairs && heads <= kMaxMixRows;
  }
  // Whether load_rows gives bf16 rows although words are float32.
  bool reads_bf16(const KvView& kv, int heads) const {
    return wide_ && mixes_rows(heads) && (kv.latent_format == KvFormat::bf16 || !exact_);
  }
  AttendedRows attended(const Attention& a, const PickedRows& picked, int64_t at, int heads,
                        Scratch& s) const;
  void score_rows_of(const AttendedRows& rows, const void* const* cached, int n, bool bf16,
                     float* scores) const;
  static void start_weights(const AttendedRows& rows, Scratch& s);
  void weigh_tile(const Attention& a, const AttendedRows& rows, int64_t first, Scratch& s) const;
  void mix_weighted(const Attention& a, const AttendedRows& rows, Columns columns, Scratch& s);
  void load_rows(const Attention& a, const AttendedRows& rows, int64_t first, int n, Scratch& s,
                 RowTile& tile) const;
  void kept_rows(const Attention& a, const AttendedRows& rows, int64_t first, int n,
                 RowTile& tile) const;
  void mix_latent(const RowTile& tile, int n, int heads, Columns columns, Scratch& s);
  void project_values(const Attention& a, int begin, int end);
  void project_head(const Attention& a, int begin, int end, int64_t h, Columns values, int thread);
  void project_head_values(const Attention& a, int begin, int end, int64_t h, Columns values,
                           int thread);
  void dot_head_values(const Attention& a, int begin, int end, int64_t h, Columns values,
                       Scratch& s);

  // attention_expanded.cpp
  void pack_value_weights(const KvUpWeights& up, int head, uint32_t* panel, Scratch& s) const;
  void expand_weights(const Attention& a, const ExpandedBlock& b);
  void expand_tiles(const Attention& a, const ExpandedBlock& b);
  void expand_head(int64_t tile, int head, Scratch& s);
  void attend_block(const Attention& a, ExpandedBlock& b);
  void attend_queries(const Attention& a, const ExpandedBlock& b, int begin, int end, int head,
                      int heads, Scratch& s);
  void finish_queries(const Attention& a, const ExpandedBlock& b, int begin, int end, int head);

  const AttentionKernels& attention_;
  const bool exact_;
  const bool wide_;  // words are float32 whatever the numerics
  const bool dims_ok_, index_ok_;
  int64_t kept_rows_ = 0;

  Buffer scratch_memory_, shared_memory_;
  std::vector<Scratch> scratch_;  // per thread
  uint32_t* zero_row_ = nullptr;

  // Absorbed form: queries and outputs in latent space of a tile of tokens.
  int token_tile_ = 0;
  uint32_t* q_latent_ = nullptr;  // [token_tile][heads][latent + rope]
  uint32_t* o_latent_ = nullptr;  // [token_tile][heads][latent]

  // Expanded form: weights, keys and values of a group of heads, softmax state of its queries.
  int head_group_ = 0, query_tile_ = 0;
  int64_t tile_group_ = 0;
  uint32_t* key_weights_ = nullptr;    // [head_group][nope][latent]
  uint32_t* value_weights_ = nullptr;  // [head_group] panels of [latent][value]
  uint32_t* key_panels_ = nullptr;     // [tile_group][head_group][nope + rope][64]
  uint32_t* value_panels_ = nullptr;   // [tile_group][head_group][64][value]
  float* state_out_ = nullptr;         // [head_group][query_tile][value]
  float *state_top_ = nullptr, *state_sum_ = nullptr;

  // Indexer.
  float* scores_ = nullptr;
  int64_t score_floats_ = 0;
  uint32_t* index_q_ = nullptr;  // queries in the element type, where they are not
  std::vector<ScoreRows> score_list_;
};

}  // namespace fathom
