// The absorbed form: query times the key part of kv_b, attention over latent rows as they are
// cached, value part of kv_b last. A cached row is read once for all heads of a token.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/attention_ops.h"

namespace fathom {
namespace {

using K = KernelDims;
constexpr int kRow = K::kLatent + K::kRope, kQuery = K::kNope + K::kRope;

// Rows are prefetched this far ahead of their use: together with the rows in use they fit L1.
constexpr int64_t kRowsAhead = 32;
// With few heads, the products of a row take less time than its load. So rows are prefetched in
// smaller portions, between the products.
constexpr int kPortion = 16;  // what RowDots rounds up to

// Up to this many query rows are multiplied with the FP8 codes of kv_b; for more rows it pays to
// dequantise the weights first.
constexpr int kCodeRows = 4;

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
  const int heads = a.up.heads, parts = std::clamp(pool_.size(), 1, heads);
  const int block = std::min(kMaxHeadBlock, (heads + parts - 1) / parts);
  pool_.parallel_dynamic(
      (heads + block - 1) / block, 1, [&](int64_t first, int64_t last, int thread) {
        Scratch& s = scratch_[static_cast<size_t>(thread)];
        for (int64_t i = first; i < last; ++i) {
          const int head = static_cast<int>(i) * block, stop = std::min(heads, head + block);
          PickedRows rows(a, t);
          for (int h = head; h < stop; ++h) absorb_head_queries(a, t, t + 1, h, s);
          attend_latent_heads(a, t, rows, head, stop - head, s);
          for (int h = head; h < stop; ++h) project_head(a, t, t + 1, h, thread);
        }
      });
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
                                int rows, float* product) const {
  const auto mix = element().mix_codes;
  if (!mix || rows > kCodeRows || !one_code_block(w, row)) return false;
  for (int c = 0; c < K::kLatent; c += kFp8Block) {
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
    for (int64_t h = first; h < last; ++h) absorb_head_queries(a, begin, end, h, s);
  });
}

void AttentionOps::absorb_head_queries(const Attention& a, int begin, int end, int64_t h,
                                       Scratch& s) {
  const int64_t row = h * (K::kNope + K::kValue);
  const uint32_t* panel = nullptr;  // made when the first tokens need it
  for (int t = begin; t < end; t += kTokenBlock) {
    const int rows = std::min(kTokenBlock, end - t);
    auto latent_query = [&](int token) {
      return q_latent_ + ((token - begin) * a.up.heads + h) * words(kRow);
    };
    int64_t stride;
    const void* nope = query_words(a.q, t, rows, h * kQuery, K::kNope, s.queries, stride);
    if (absorb_codes(a.up.kv_b, row, nope, stride, rows, s.product)) {
      for (int r = 0; r < rows; ++r)
        round_words(s.product + r * K::kLatent, K::kLatent, latent_query(t + r));
    } else {
      if (!panel) panel = load_key_panel(a.up.kv_b, row, s);
      for (int c = 0; c < K::kLatent; c += kPanelWidth) {
        element().product({nope, stride, panel + c, K::kLatent, static_cast<int>(words(K::kNope)),
                           s.product, kPanelWidth, rows, nullptr});
        for (int r = 0; r < rows; ++r)
          round_words(s.product + r * kPanelWidth, kPanelWidth, latent_query(t + r) + words(c));
      }
    }
    for (int r = 0; r < rows; ++r)
      load_words(a.q, t + r, h * kQuery + K::kNope, K::kRope,
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
  const int64_t tile_scores = int64_t{heads} * kPanelWidth;
  std::memset(s.mixed, 0, sizeof(float) * static_cast<size_t>(heads) * K::kLatent);
  std::fill_n(s.top, heads, kNoScore);
  std::fill_n(s.sum, heads, 0.0f);
  // Rows that had to be converted stay for the second pass while there is room.
  const bool keep = !lies_ready(a.kv) && picked.count <= kept_rows_;
  const void* rows[kPanelWidth];
  bool bf16 = false, kept = false;
  auto load = [&](int64_t first, int n) {
    for (int j = 0; j < kPanelWidth; ++j) {
      if (j >= n) {
        rows[j] = zero_row_;
      } else if (kept) {
        rows[j] = s.kept + (first + j) * words(kRow);
      } else {
        const int64_t row = a.batch.cache_row(picked.token, picked.position(first + j));
        uint32_t* place = keep ? s.kept + (first + j) * words(kRow) : s.rows + j * words(kRow);
        if (mixes_rows(heads)) {
          const LatentRow from = latent_row(a.kv, row, place);
          rows[j] = from.data;
          bf16 = wide_ && from.bf16;
        } else {
          rows[j] = latent_words(a.kv, row, place);
        }
      }
    }
  };
  auto tile = [&](int64_t first, const auto& body) {
    const int n = static_cast<int>(std::min<int64_t>(kPanelWidth, picked.count - first));
    const uint64_t mask = first_lanes(n);
    float* scores = s.head_scores + first / kPanelWidth * tile_scores;
    load(first, n);
    body(first, n, mask, scores);
  };
  const int portion = heads <= kFewHeads ? kPortion : kPanelWidth;
  // Two passes: the weights are normalised before they are rounded, as in the reference. One pass
  // with a running maximum would round other values.
  picked.fetch(a, kRowsAhead);
  for (int64_t i = 0; i < picked.count; i += kPanelWidth)
    tile(i, [&](int64_t first, int n, uint64_t mask, float* scores) {
      for (int r = 0; r < n; r += portion) {
        picked.fetch(a, first + r + portion + kRowsAhead);
        element().dots({q_latent_ + at * words(kRow), words(kRow), heads, rows + r,
                        std::min(portion, n - r), static_cast<int>(words(kRow)), scores + r,
                        kPanelWidth, bf16});
      }
      element().softmax({scores, &mask, 0, heads, a.scale, s.top, s.sum, s.carry, s.shares});
    });
  // 2^(score - top) / sum = 2^(score - (top + log2 sum)). The new top is still an upper bound of
  // the scores, since sum >= 1.
  for (int h = 0; h < heads; ++h) s.top[h] += std::log2(s.sum[h]);
  kept = keep;
  for (int64_t i = 0; i < picked.count; i += kPanelWidth)
    tile(i, [&](int64_t, int n, uint64_t mask, float* scores) {
      element().softmax({scores, &mask, 0, heads, a.scale, s.top, s.sum, s.carry, s.shares});
      mix_latent(rows, bf16, n, heads, s);
    });
  for (int h = 0; h < heads; ++h)
    round_words(s.mixed + int64_t{h} * K::kLatent, K::kLatent,
                o_latent_ + (at + h) * words(K::kLatent));
}

// mixed[h] = carry[h] * mixed[h] + sum over the tile's rows of share * latent row.
void AttentionOps::mix_latent(const void* const* rows, bool bf16, int n, int heads, Scratch& s) {
  const int share_words = wide_ ? n : (n + 1) / 2;
  if (mixes_rows(heads))
    return element().mix({s.shares, words(kPanelWidth), rows, share_words, K::kLatent, s.mixed,
                          K::kLatent, heads, s.carry, bf16});
  if (wide_) {
    // float32 rows form a panel once they are contiguous.
    for (int j = 0; j < n; ++j)
      std::memcpy(s.panel + j * K::kLatent, rows[j], sizeof(float) * K::kLatent);
  } else {
    attention_.pack_pairs(rows, share_words, K::kLatent, s.panel, K::kLatent);
  }
  for (int c = 0; c < K::kLatent; c += kPanelWidth)
    element().product({s.shares, words(kPanelWidth), s.panel + c, K::kLatent, share_words,
                       s.mixed + c, K::kLatent, heads, s.carry});
}

// out[t][h] = o_latent[t][h] Wv_h^T.
void AttentionOps::project_values(const Attention& a, int begin, int end) {
  pool_.parallel_dynamic(a.up.heads, 1, [&](int64_t first, int64_t last, int thread) {
    for (int64_t h = first; h < last; ++h) project_head(a, begin, end, h, thread);
  });
}

void AttentionOps::project_head(const Attention& a, int begin, int end, int64_t h, int thread) {
  if (wide_)
    project_head_values(a, begin, end, h, thread);
  else
    dot_head_values(a, begin, end, h, scratch_[static_cast<size_t>(thread)]);
}

// As the product of a linear layer.
void AttentionOps::project_head_values(const Attention& a, int begin, int end, int64_t h,
                                       int thread) {
  const int64_t row = h * (K::kNope + K::kValue) + K::kNope;
  const QWeight values = a.up.kv_b.slice_rows(row, row + K::kValue);
  const uint8_t* x[kTokenBlock];
  for (int t = begin; t < end; t += kTokenBlock) {
    const int rows = std::min(kTokenBlock, end - t);
    for (int r = 0; r < rows; ++r)
      x[r] = reinterpret_cast<const uint8_t*>(o_latent_ +
                                              ((t - begin + r) * a.up.heads + h) * K::kLatent);
    multiply_rows(values, {x, nullptr, rows},
                  {element_at(a.out, t, h * K::kValue), a.out.row_stride, !exact_}, thread);
  }
}

// Computes the values as dot products of bf16 pairs, for which rows of weights need no packing.
void AttentionOps::dot_head_values(const Attention& a, int begin, int end, int64_t h, Scratch& s) {
  const int64_t ld = a.up.heads * words(K::kLatent), row = h * (K::kNope + K::kValue) + K::kNope;
  const QWeight& w = a.up.kv_b;
  const bool codes = element().dot_codes && end - begin <= kCodeRows && one_code_block(w, row);
  if (!codes) load_weights(w, row, K::kValue, s.weights);
  const void* weights[K::kValue];
  for (int r = 0; r < K::kValue; ++r) weights[r] = s.weights + r * words(K::kLatent);
  for (int t = begin; t < end; t += kTokenBlock) {
    const int rows = std::min(kTokenBlock, end - t), latent = static_cast<int>(words(K::kLatent));
    const uint32_t* q = o_latent_ + (t - begin) * ld + h * words(K::kLatent);
    if (codes)
      element().dot_codes({q, ld, rows, w.row<uint8_t>(row), K::kLatent, K::kValue, latent,
                           w.scales_of_row(row), s.product, K::kValue});
    else
      element().dots({q, ld, rows, weights, K::kValue, latent, s.product, K::kValue, false});
    for (int r = 0; r < rows; ++r)
      store_scaled(element_at(a.out, t + r, h * K::kValue), s.product + r * K::kValue, K::kValue,
                   1.0f);
  }
}

}  // namespace fathom
