// The absorbed form: query times the key part of kv_b, attention over latent rows as they are
// cached, value part of kv_b last. A cached row is read once for all heads of a token.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/attention_ops.h"

namespace fathom {
namespace {

using K = KernelDims;

// Rows are prefetched this far ahead of their use: together with the rows in use they fit L1.
constexpr int64_t kRowsAhead = 32;
// With few heads, the products of a row take less time than its load. So rows are prefetched in
// smaller portions, between the products.
constexpr int kPortion = 16;  // what RowDots rounds up to

// Up to this many query rows are multiplied with the FP8 codes of kv_b; for more rows it pays to
// dequantise the weights first.
constexpr int kCodeRows = 4;

// Values of a head that one thread computes where heads are few.
constexpr int kValueRows = 32;

uint64_t first_lanes(int64_t n) { return n >= 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1; }

}  // namespace

void AttentionOps::attend_absorbed(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked,
                                   const KvView& kv, const BatchView& batch, float scale) {
  if (!fits(up, kv)) return ReferenceOps::attend_absorbed(out, q, up, picked, kv, batch, scale);
  Attention a{out, q, up, picked, kv, batch, scale * kLog2E};
  auto span = batch.spans.begin();
  while (span != batch.spans.end()) {
    if (span->form != AttentionForm::absorbed) {
      ++span;
      continue;
    }
    // Neighbouring spans share one pass over the weights, so a batch of decodes reads them once.
    const int begin = span->begin;
    int end = span->end;
    for (++span; span != batch.spans.end() && span->form == AttentionForm::absorbed; ++span)
      end = span->end;
    for (int t = begin; t < end; t += token_tile_) {
      int stop = std::min(end, t + token_tile_);
      if (stop - t == 1) {
        attend_token(a, t);
        continue;
      }
      absorb_queries(a, t, stop);
      attend_latent(a, t, stop);
      project_values(a, t, stop);
    }
  }
}

// One token: heads have nothing to do with one another, so each thread takes some of them from
// their queries to their values. That is one parallel region instead of three.
void AttentionOps::attend_token(const Attention& a, int t) {
  if (a.up.heads <= kFewHeads && pool_.size() > 1) return attend_few_heads(a, t);
  const int heads = a.up.heads, parts = std::clamp(pool_.size(), 1, heads);
  const int block = std::min(kMaxHeadBlock, (heads + parts - 1) / parts);
  pool_.parallel_dynamic(
      (heads + block - 1) / block, 1, [&](int64_t first, int64_t last, int thread) {
        Scratch& s = scratch_[static_cast<size_t>(thread)];
        for (int64_t i = first; i < last; ++i) {
          const int head = static_cast<int>(i) * block, stop = std::min(heads, head + block);
          PickedRows rows(a, t);
          for (int h = head; h < stop; ++h) absorb_head_queries(a, t, t + 1, h, kAllColumns, s);
          attend_latent_heads(a, t, rows, head, stop - head, s);
          for (int h = head; h < stop; ++h) project_head(a, t, t + 1, h, kAllValues, thread);
        }
      });
}

// One token of few heads. If each thread took heads, most threads would have none, and each of the
// others would read all cached rows. So every stage is divided by something else: queries by
// columns, scores by rows, the mixture of rows by columns, values by rows of the weights.
void AttentionOps::attend_few_heads(const Attention& a, int t) {
  const int heads = a.up.heads;
  const PickedRows picked(a, t);
  auto scratch = [&](int thread) -> Scratch& { return scratch_[static_cast<size_t>(thread)]; };
  constexpr int kQueryParts = K::kLatent / kFp8Block;
  pool_.parallel_for(heads * kQueryParts, 1, [&](int64_t first, int64_t last, int thread) {
    for (int64_t i = first; i < last; ++i) {
      const int column = static_cast<int>(i % kQueryParts) * kFp8Block;
      absorb_head_queries(a, t, t + 1, i / kQueryParts, {column, column + kFp8Block},
                          scratch(thread));
    }
  });
  // What the threads share lies in the scratch of the first of them.
  const AttendedRows rows = attended(a, picked, 0, heads, scratch_[0]);
  pool_.parallel_for(picked.count, kPortion, [&](int64_t first, int64_t last, int thread) {
    score_portions(a, rows, first, last, scratch(thread));
  });
  pool_.parallel_for(K::kLatent, kPanelWidth, [&](int64_t first, int64_t last, int thread) {
    mix_columns(a, rows, {static_cast<int>(first), static_cast<int>(last)}, scratch(thread));
  });
  constexpr int kValueParts = K::kValue / kValueRows;
  pool_.parallel_for(heads * kValueParts, 1, [&](int64_t first, int64_t last, int thread) {
    for (int64_t i = first; i < last; ++i) {
      const int value = static_cast<int>(i % kValueParts) * kValueRows;
      project_head(a, t, t + 1, i / kValueParts, {value, value + kValueRows}, thread);
    }
  });
}

// Scores of rows [first, last) of one token.
void AttentionOps::score_portions(const Attention& a, const AttendedRows& rows, int64_t first,
                                  int64_t last, Scratch& s) const {
  PickedRows picked = rows.picked;
  picked.asked = first;
  picked.fetch(a, std::min(last, first + kRowsAhead));
  RowTile tile;
  for (int64_t i = first; i < last; i += kPortion) {
    const int n = static_cast<int>(std::min<int64_t>(kPortion, last - i));
    picked.fetch(a, std::min(last, i + kPortion + kRowsAhead));
    load_rows(a, rows, i, n, s, tile);
    score_rows_of(rows, tile.rows, n, tile.bf16, rows.scores_at(i));
  }
}

// o_latent in some columns, from the scores of all rows.
void AttentionOps::mix_columns(const Attention& a, const AttendedRows& rows, Columns columns,
                               Scratch& s) {
  start_weights(rows, s);
  for (int64_t i = 0; i < rows.picked.count; i += kPanelWidth) weigh_tile(a, rows, i, s);
  mix_weighted(a, rows, columns, s);
}

// The key rows of a head as the panel that a query is multiplied with. The panel keeps the order of
// the weight's columns; bf16 rows are interleaved in pairs.
const uint32_t* AttentionOps::load_key_panel(const QWeight& w, int64_t row, Scratch& s) const {
  if (!wide_ && one_code_block(w, row)) {
    for (int c = 0; c < K::kLatent; c += kFp8Block)
      attention_.dequantise_pairs(w.row<uint8_t>(row) + c, K::kLatent, K::kNope / 2,
                                  w.scales_of_row(row)[c / kFp8Block], s.panel + c, K::kLatent);
    return s.panel;
  }
  load_weights(w, row, K::kNope, s.weights);
  if (wide_) return s.weights;
  const void* rows[K::kNope];
  for (int r = 0; r < K::kNope; ++r) rows[r] = s.weights + r * words(K::kLatent);
  attention_.pack_pairs(rows, K::kNope / 2, K::kLatent, s.panel, K::kLatent);
  return s.panel;
}

// Whether rows from `row` on, up to a block of them, are FP8 codes under one scale a column block.
bool AttentionOps::one_code_block(const QWeight& w, int64_t row) {
  return w.is_fp8() && (row + w.row_offset) % kFp8Block == 0;
}

// product[r] = nope[r] Wk for few rows, computed from the FP8 codes. Returns false where the
// weights must be dequantised first: other types; float32 words with scales that are no powers of
// two (their products are rounded), or with NaN codes.
bool AttentionOps::absorb_codes(const QWeight& w, int64_t row, const void* nope, int64_t stride,
                                int rows, Columns columns, float* product) const {
  const auto mix = element().mix_codes;
  if (!mix || rows > kCodeRows || !one_code_block(w, row)) return false;
  for (int c = columns.begin; c < columns.end; c += kFp8Block) {
    const float scale = w.scales_of_row(row)[c / kFp8Block];
    int exponent;
    if (wide_ && (std::frexp(scale, &exponent) != 0.5f || std::abs(exponent) > 100)) return false;
    if (!mix({nope, stride, w.row<uint8_t>(row) + c, K::kLatent, static_cast<int>(words(K::kNope)),
              scale, w.words != nullptr, product + c, K::kLatent, rows}))
      return false;
  }
  return true;
}

// q_latent[t][h] = [q_nope Wk_h | q_rope], rounded.
void AttentionOps::absorb_queries(const Attention& a, int begin, int end) {
  pool_.parallel_dynamic(a.up.heads, 1, [&](int64_t first, int64_t last, int thread) {
    Scratch& s = scratch_[static_cast<size_t>(thread)];
    for (int64_t h = first; h < last; ++h) absorb_head_queries(a, begin, end, h, kAllColumns, s);
  });
}

// `columns` of the latent part; the rope part belongs to the first of them.
void AttentionOps::absorb_head_queries(const Attention& a, int begin, int end, int64_t h,
                                       Columns columns, Scratch& s) {
  const int64_t row = h * (K::kNope + K::kValue);
  const uint32_t* panel = nullptr;  // made when the first tokens need it
  for (int t = begin; t < end; t += kTokenBlock) {
    const int rows = std::min(kTokenBlock, end - t);
    auto latent_query = [&](int token) {
      return q_latent_ + ((token - begin) * a.up.heads + h) * words(K::kRow);
    };
    int64_t stride;
    const void* nope = query_words(a.q, t, rows, h * K::kQuery, K::kNope, s.queries, stride);
    if (absorb_codes(a.up.kv_b, row, nope, stride, rows, columns, s.product)) {
      for (int r = 0; r < rows; ++r)
        round_words(s.product + r * K::kLatent + columns.begin, columns.end - columns.begin,
                    latent_query(t + r) + words(columns.begin));
    } else {
      if (!panel) panel = load_key_panel(a.up.kv_b, row, s);
      for (int c = columns.begin; c < columns.end; c += kPanelWidth) {
        element().product({nope, stride, panel + c, K::kLatent, static_cast<int>(words(K::kNope)),
                           s.product, kPanelWidth, rows, nullptr});
        for (int r = 0; r < rows; ++r)
          round_words(s.product + r * kPanelWidth, kPanelWidth, latent_query(t + r) + words(c));
      }
    }
    for (int r = 0; r < rows && columns.begin == 0; ++r)
      load_words(a.q, t + r, h * K::kQuery + K::kNope, K::kRope,
                 latent_query(t + r) + words(K::kLatent));
  }
}

// Computes o_latent[t][h] for tokens [begin, end). If there are fewer tokens than threads, the
// heads of a token are divided among threads, and each of them reads the picked rows.
void AttentionOps::attend_latent(const Attention& a, int begin, int end) {
  const int tokens = end - begin, heads = a.up.heads;
  const int parts = std::clamp((pool_.size() + tokens - 1) / tokens, 1, heads);
  const int block = std::min(kMaxHeadBlock, (heads + parts - 1) / parts);
  const int blocks = (heads + block - 1) / block;
  pool_.parallel_dynamic(int64_t{tokens} * blocks, 1, [&](int64_t first, int64_t last, int thread) {
    for (int64_t i = first; i < last; ++i) {
      int head = static_cast<int>(i % blocks) * block;
      PickedRows rows(a, begin + static_cast<int>(i / blocks));
      attend_latent_heads(a, begin, rows, head, std::min(block, heads - head),
                          scratch_[static_cast<size_t>(thread)]);
    }
  });
}

AttentionOps::PickedRows::PickedRows(const Attention& a, int t) : token(t) {
  count = int64_t{a.batch.positions[t]} + 1;
  if (a.picked.empty()) return;
  picks = a.picked.row<int32_t>(t);
  count =
      std::partition_point(picks, picks + a.picked.row_size(), [](int32_t p) { return p >= 0; }) -
      picks;
}

// Prefetches the picked rows before `end` that were not prefetched yet.
void AttentionOps::PickedRows::fetch(const Attention& a, int64_t end) {
  for (end = std::min(end, count); asked < end; ++asked) {
    const std::byte* row = a.kv.latent_row(a.batch.cache_row(token, position(asked)));
    for (int64_t at = 0; at < a.kv.latent_stride; at += 64) __builtin_prefetch(row + at, 0, 3);
  }
}

void AttentionOps::attend_latent_heads(const Attention& a, int begin, PickedRows& picked, int head,
                                       int heads, Scratch& s) {
  const int64_t at = int64_t{picked.token - begin} * a.up.heads + head;
  const AttendedRows rows = attended(a, picked, at, heads, s);
  const int portion = heads <= kFewHeads ? kPortion : kPanelWidth;
  RowTile tile;
  start_weights(rows, s);
  picked.fetch(a, kRowsAhead);
  for (int64_t i = 0; i < picked.count; i += kPanelWidth) {
    const int n = static_cast<int>(std::min<int64_t>(kPanelWidth, picked.count - i));
    load_rows(a, rows, i, n, s, tile);
    for (int r = 0; r < n; r += portion) {
      picked.fetch(a, i + r + portion + kRowsAhead);
      score_rows_of(rows, tile.rows + r, std::min(portion, n - r), tile.bf16,
                    rows.scores_at(i + r));
    }
    weigh_tile(a, rows, i, s);
  }
  mix_weighted(a, rows, kAllColumns, s);
}

// What `heads` heads attend to: those from q_latent_'s row `at` on, with memory of `s`. Rows that
// have to be converted stay for the second pass over them while there is room.
AttentionOps::AttendedRows AttentionOps::attended(const Attention& a, const PickedRows& picked,
                                                  int64_t at, int heads, Scratch& s) const {
  const bool keep = !lies_ready(a.kv) && picked.count <= kept_rows_;
  return {picked, at, heads, s.head_scores, keep ? s.kept : nullptr};
}

void AttentionOps::score_rows_of(const AttendedRows& rows, const void* const* cached, int n,
                                 bool bf16, float* scores) const {
  const int row = static_cast<int>(words(K::kRow));
  element().dots(
      {q_latent_ + rows.at * row, row, rows.heads, cached, n, row, scores, kPanelWidth, bf16});
}

void AttentionOps::start_weights(const AttendedRows& rows, Scratch& s) {
  std::fill_n(s.top, rows.heads, kNoScore);
  std::fill_n(s.sum, rows.heads, 0.0f);
}

// The softmax weights of the tile from row `first` on.
void AttentionOps::weigh_tile(const Attention& a, const AttendedRows& rows, int64_t first,
                              Scratch& s) const {
  const uint64_t mask = first_lanes(rows.picked.count - first);
  element().softmax(
      {rows.scores_at(first), &mask, 0, rows.heads, a.scale, s.top, s.sum, s.carry, s.shares});
}

// The second pass, behind one that has weighed all tiles: the weights are normalised before they
// are rounded, as in the reference. One pass with a running maximum would round other values.
void AttentionOps::mix_weighted(const Attention& a, const AttendedRows& rows, Columns columns,
                                Scratch& s) {
  const int width = columns.end - columns.begin;
  auto mixed = [&](int h) { return s.mixed + int64_t{h} * K::kLatent + columns.begin; };
  for (int h = 0; h < rows.heads; ++h) {
    std::fill_n(mixed(h), width, 0.0f);
    // 2^(score - top) / sum = 2^(score - (top + log2 sum)). The new top is still an upper bound of
    // the scores, since sum >= 1.
    s.top[h] += std::log2(s.sum[h]);
  }
  RowTile tile;
  for (int64_t i = 0; i < rows.picked.count; i += kPanelWidth) {
    const int n = static_cast<int>(std::min<int64_t>(kPanelWidth, rows.picked.count - i));
    if (rows.kept)
      kept_rows(a, rows, i, n, tile);
    else
      load_rows(a, rows, i, n, s, tile);
    weigh_tile(a, rows, i, s);
    mix_latent(tile, n, rows.heads, columns, s);
  }
  for (int h = 0; h < rows.heads; ++h)
    round_words(mixed(h), width,
                o_latent_ + (rows.at + h) * words(K::kLatent) + words(columns.begin));
}

// Rows [first, first + n) of what a token picks, zeros behind them.
void AttentionOps::load_rows(const Attention& a, const AttendedRows& rows, int64_t first, int n,
                             Scratch& s, RowTile& tile) const {
  const bool mixes = mixes_rows(rows.heads);
  uint32_t* place = rows.kept ? rows.kept + first * words(K::kRow) : s.rows;  // of converted ones
  tile.bf16 = reads_bf16(a.kv, rows.heads);
  for (int j = 0; j < n; ++j, place += words(K::kRow)) {
    const int64_t row = a.batch.cache_row(rows.picked.token, rows.picked.position(first + j));
    tile.rows[j] = mixes ? latent_row(a.kv, row, place).data : latent_words(a.kv, row, place);
  }
  std::fill(tile.rows + n, tile.rows + kPanelWidth, zero_row_);
}

// The same of rows that an earlier load has converted.
void AttentionOps::kept_rows(const Attention& a, const AttendedRows& rows, int64_t first, int n,
                             RowTile& tile) const {
  tile.bf16 = reads_bf16(a.kv, rows.heads);
  for (int j = 0; j < n; ++j) tile.rows[j] = rows.kept + (first + j) * words(K::kRow);
  std::fill(tile.rows + n, tile.rows + kPanelWidth, zero_row_);
}

// mixed[h] = carry[h] * mixed[h] + sum over the tile's rows of share * latent row.
void AttentionOps::mix_latent(const RowTile& tile, int n, int heads, Columns columns, Scratch& s) {
  const int share_words = wide_ ? n : (n + 1) / 2, width = columns.end - columns.begin;
  const int64_t skipped = columns.begin * (wide_ && !tile.bf16 ? 4 : 2);  // bytes
  const void* rows[kPanelWidth];
  for (int j = 0; j < kPanelWidth; ++j)
    rows[j] = static_cast<const std::byte*>(tile.rows[j]) + skipped;
  float* mixed = s.mixed + columns.begin;
  if (mixes_rows(heads))
    return element().mix({s.shares, words(kPanelWidth), rows, share_words, width, mixed, K::kLatent,
                          heads, s.carry, tile.bf16});
  if (wide_) {
    // float32 rows form a panel once they are contiguous.
    for (int j = 0; j < n; ++j)
      std::memcpy(s.panel + j * K::kLatent, rows[j], sizeof(float) * static_cast<size_t>(width));
  } else {
    attention_.pack_pairs(rows, share_words, width, s.panel, K::kLatent);
  }
  for (int c = 0; c < width; c += kPanelWidth)
    element().product({s.shares, words(kPanelWidth), s.panel + c, K::kLatent, share_words,
                       mixed + c, K::kLatent, heads, s.carry});
}

// out[t][h] = o_latent[t][h] Wv_h^T.
void AttentionOps::project_values(const Attention& a, int begin, int end) {
  pool_.parallel_dynamic(a.up.heads, 1, [&](int64_t first, int64_t last, int thread) {
    for (int64_t h = first; h < last; ++h) project_head(a, begin, end, h, kAllValues, thread);
  });
}

// `values`: which of a head's values.
void AttentionOps::project_head(const Attention& a, int begin, int end, int64_t h, Columns values,
                                int thread) {
  if (wide_)
    project_head_values(a, begin, end, h, values, thread);
  else
    dot_head_values(a, begin, end, h, values, scratch_[static_cast<size_t>(thread)]);
}

// As the product of a linear layer.
void AttentionOps::project_head_values(const Attention& a, int begin, int end, int64_t h,
                                       Columns values, int thread) {
  const int64_t row = h * (K::kNope + K::kValue) + K::kNope;
  const QWeight weights = a.up.kv_b.slice_rows(row + values.begin, row + values.end);
  const uint8_t* x[kTokenBlock];
  for (int t = begin; t < end; t += kTokenBlock) {
    const int rows = std::min(kTokenBlock, end - t);
    for (int r = 0; r < rows; ++r)
      x[r] = reinterpret_cast<const uint8_t*>(o_latent_ +
                                              ((t - begin + r) * a.up.heads + h) * K::kLatent);
    multiply_rows(weights, {x, nullptr, rows},
                  {element_at(a.out, t, h * K::kValue + values.begin), a.out.row_stride, !exact_},
                  thread);
  }
}

// Computes the values as dot products of bf16 pairs, for which rows of weights need no packing.
void AttentionOps::dot_head_values(const Attention& a, int begin, int end, int64_t h,
                                   Columns values, Scratch& s) {
  const int64_t ld = a.up.heads * words(K::kLatent), row = h * (K::kNope + K::kValue) + K::kNope;
  const int count = values.end - values.begin;
  const QWeight& w = a.up.kv_b;
  const bool codes = element().dot_codes && end - begin <= kCodeRows && one_code_block(w, row);
  if (!codes) load_weights(w, row + values.begin, count, s.weights);
  const void* weights[K::kValue];
  for (int r = 0; r < count; ++r) weights[r] = s.weights + r * words(K::kLatent);
  for (int t = begin; t < end; t += kTokenBlock) {
    const int rows = std::min(kTokenBlock, end - t), latent = static_cast<int>(words(K::kLatent));
    const uint32_t* q = o_latent_ + (t - begin) * ld + h * words(K::kLatent);
    if (codes)
      element().dot_codes({q, ld, rows, w.row<uint8_t>(row + values.begin), K::kLatent, count,
                           latent, w.scales_of_row(row), s.product, K::kValue});
    else
      element().dots({q, ld, rows, weights, count, latent, s.product, K::kValue, false});
    for (int r = 0; r < rows; ++r)
      store_scaled(element_at(a.out, t + r, h * K::kValue + values.begin),
                   s.product + r * K::kValue, count, 1.0f);
  }
}

}  // namespace fathom
