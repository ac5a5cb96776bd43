// Index scores and top-k. Scores are kept in a buffer of fixed size (workload.index_budget), so a
// step is done in runs of as many tokens as fit. Work is divided by key tile; each tile is packed
// once for all tokens of a run.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/attention_ops.h"
#include "kernels/cpu/topk.h"

namespace fathom {
namespace {

constexpr int kDim = KernelDims::kIndex;
constexpr int kPieces = 8;  // pieces of work a thread, at least, for balance

KvFormat index_format_of(Numerics numerics) {
  return numerics == Numerics::exact  ? KvFormat::f32
         : numerics == Numerics::bf16 ? KvFormat::bf16
                                      : KvFormat::fp8;
}

int64_t position_of(const BatchView& batch, int token) { return batch.positions[token]; }

}  // namespace

bool AttentionOps::fits_index(Tensor index_q, const KvView& kv) const {
  DType expected = exact_                        ? DType::f32
                   : numerics_ == Numerics::bf16 ? DType::bf16
                                                 : DType::fp8_e4m3;
  return index_ok_ && index_q.dims[2] == kDim && kv.index_dim == kDim &&
         index_q.dtype == expected && kv.index_format == index_format_of(numerics_);
}

// The queries in the element type. They are used in place, or converted: fp8 codes are exact in
// bf16, and their scale is part of head_weight.
const uint32_t* AttentionOps::index_words(Tensor index_q, const BatchView& batch, int64_t& stride) {
  const bool fp8 = index_q.dtype == DType::fp8_e4m3;
  if (!fp8 && (exact_ || !wide_)) {
    stride = words(index_q.row_stride);
    return static_cast<const uint32_t*>(index_q.data);
  }
  const int heads = static_cast<int>(index_q.dims[1]);
  stride = words(int64_t{heads} * kDim);
  pool_.parallel_for(batch.tokens, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t)
      index_row_words(element_at(index_q, static_cast<int>(t), 0), fp8, heads,
                      index_q_ + t * stride);
  });
  return index_q_;
}

// `rows` rows of index values, FP8 codes without their scales or bf16, in the element type.
void AttentionOps::index_row_words(const void* from, bool fp8, int rows, uint32_t* out) const {
  if (!fp8)
    return attention_.to_f32(static_cast<const uint16_t*>(from), rows * kDim,
                             reinterpret_cast<float*>(out));
  const uint8_t* code = static_cast<const uint8_t*>(from);
  if (wide_)
    attention_.dequantise_f32(code, kDim, rows, 1.0f, reinterpret_cast<float*>(out), kDim);
  else
    attention_.dequantise_bf16(code, kDim, rows, 1.0f, reinterpret_cast<uint16_t*>(out), kDim);
}

void AttentionOps::score_tile(const ScoreRows& rows, int64_t tile, const uint32_t* q, int64_t ldq,
                              Tensor head_weight, const KvView& kv, const BatchView& batch,
                              std::span<const std::byte> ahead, Scratch& s) {
  const int64_t first = tile * kPanelWidth;
  const int64_t last = position_of(batch, rows.end - 1);
  const int valid = static_cast<int>(std::min<int64_t>(kPanelWidth, last + 1 - first));
  const void* keys[kPanelWidth] = {};
  alignas(64) float key_scale[kPanelWidth] = {};
  const bool fp8 = kv.index_format == KvFormat::fp8;
  static_assert(kPageRows % kPanelWidth == 0, "a tile lies within one page");
  const int64_t first_row = batch.cache_row(rows.begin, first);
  const std::byte* tile_rows = kv.index_row(first_row);
  // Unscaled codes: the scale is applied to the score, as the definition has it. They become bf16,
  // which kernels that take float32 words widen in registers.
  if (fp8)
    attention_.dequantise_bf16(reinterpret_cast<const uint8_t*>(tile_rows), kDim, valid, 1.0f,
                               reinterpret_cast<uint16_t*>(s.rows), kDim);
  const int key_words = exact_ ? kDim : kDim / 2;
  for (int i = 0; i < valid; ++i)
    keys[i] = fp8 ? static_cast<const void*>(s.rows + i * key_words)
                  : tile_rows + i * kv.index_value_bytes();
  if (fp8)
    std::memcpy(key_scale, kv.index_scales(first_row), static_cast<size_t>(valid) * sizeof(float));
  attention_.pack_lanes(keys, key_words, s.lanes);
  // Tokens before the tile do not see it.
  int begin =
      rows.begin + static_cast<int>(std::max<int64_t>(0, first - position_of(batch, rows.begin)));
  IndexTile t;
  t.q = q + begin * ldq;
  t.ldq = ldq;
  t.head_weight = head_weight.row<float>(begin);
  t.ldw = head_weight.row_stride;
  t.heads = static_cast<int>(head_weight.dims[1]);
  t.words = static_cast<int>(words(kDim));
  t.keys = s.lanes;
  t.bf16_keys = wide_ && !exact_;
  t.key_scale = fp8 ? key_scale : nullptr;
  t.rows = rows.end - begin;
  t.ldo = rows.tiles * kPanelWidth;
  t.out = scores_ + rows.offset + (begin - rows.begin) * t.ldo + first;
  t.ahead = ahead.data();
  t.ahead_bytes = static_cast<int64_t>(ahead.size());
  element().index(t);
}

// Scores of everything in score_list_.
void AttentionOps::score_rows(const uint32_t* q, int64_t ldq, Tensor head_weight, const KvView& kv,
                              const BatchView& batch) {
  const ScoreRows& last = score_list_.back();
  auto rows_of = [&](int64_t item) -> const ScoreRows& {
    auto after =
        std::upper_bound(score_list_.begin(), score_list_.end(), item,
                         [](int64_t i, const ScoreRows& rows) { return i < rows.first_tile; });
    return *(after - 1);
  };
  auto keys_of = [&](int64_t item) -> std::span<const std::byte> {
    const ScoreRows& rows = rows_of(item);
    const int64_t row = batch.cache_row(rows.begin, (item - rows.first_tile) * kPanelWidth);
    return {kv.index_row(row), static_cast<size_t>(kPanelWidth * kv.index_value_bytes())};
  };
  // A piece is several tiles, so that the next tile can be prefetched while one is computed.
  const int64_t tiles = last.first_tile + last.tiles;
  const int64_t grain = std::clamp<int64_t>(tiles / (kPieces * pool_.size()), 1, 32);
  pool_.parallel_dynamic(tiles, grain, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t item = begin; item < end; ++item) {
      const ScoreRows& rows = rows_of(item);
      const bool more = item + 1 < end;
      score_tile(rows, item - rows.first_tile, q, ldq, head_weight, kv, batch,
                 more ? keys_of(item + 1) : std::span<const std::byte>(),
                 scratch_[static_cast<size_t>(thread)]);
    }
  });
}

void AttentionOps::pick_rows(Tensor picked, const BatchView& batch) {
  const int64_t topk = picked.row_size();
  for (const ScoreRows& rows : score_list_) {
    pool_.parallel_dynamic(rows.end - rows.begin, 4, [&](int64_t begin, int64_t end, int thread) {
      Scratch& s = scratch_[static_cast<size_t>(thread)];
      for (int64_t r = begin; r < end; ++r) {
        int token = rows.begin + static_cast<int>(r);
        const float* scores = scores_ + rows.offset + r * rows.tiles * kPanelWidth;
        select_topk(attention_, scores, position_of(batch, token) + 1, topk, s.keys, s.active,
                    picked.row<int32_t>(token));
      }
    });
  }
}

int64_t AttentionOps::score_floats_used() const {
  if (score_list_.empty()) return 0;
  const ScoreRows& last = score_list_.back();
  return last.offset + (last.end - last.begin) * last.tiles * kPanelWidth;
}

// Appends tokens from `begin` on, as many of [begin, end) as fit into the buffer: returns where it
// stopped. All rows of an entry are as wide as the last token of the span needs.
int AttentionOps::add_score_rows(int begin, int end, const BatchView& batch) {
  int64_t tiles = position_of(batch, end - 1) / kPanelWidth + 1;
  int64_t fit = (score_floats_ - score_floats_used()) / (tiles * kPanelWidth);
  int stop = static_cast<int>(std::min<int64_t>(end, begin + fit));
  if (stop == begin) return begin;
  int64_t first_tile = 0, offset = score_floats_used();
  if (!score_list_.empty()) first_tile = score_list_.back().first_tile + score_list_.back().tiles;
  tiles = position_of(batch, stop - 1) / kPanelWidth + 1;
  score_list_.push_back({begin, stop, tiles, first_tile, offset});
  return stop;
}

void AttentionOps::index_topk(Tensor picked, Tensor index_q, Tensor head_weight, const KvView& kv,
                              const BatchView& batch) {
  if (!fits_index(index_q, kv))
    return ReferenceOps::index_topk(picked, index_q, head_weight, kv, batch);
  const int64_t topk = picked.row_size();
  int64_t ldq = 0;
  const uint32_t* q = nullptr;  // converted when the first row needs it
  auto flush = [&] {
    if (score_list_.empty()) return;
    if (!q) q = index_words(index_q, batch, ldq);
    score_rows(q, ldq, head_weight, kv, batch);
    pick_rows(picked, batch);
    score_list_.clear();
  };
  // Tokens [t, end) of one sequence.
  auto pick = [&](int t, int end) {
    for (; t < end && position_of(batch, t) < topk; ++t) {
      int32_t* out = picked.row<int32_t>(t);
      for (int64_t i = 0; i < topk; ++i)
        out[i] = i <= position_of(batch, t) ? static_cast<int32_t>(i) : -1;
    }
    while (t < end) {
      int stop = add_score_rows(t, end, batch);
      if (stop < end) flush();
      FATHOM_CHECK(stop > t || score_floats_used() == 0, "no room for the scores of token {}", t);
      t = stop;
    }
  };
  score_list_.clear();
  for (const AttentionSpan& span : batch.spans) {
    if (batch.index_rows.parts == 1) {
      pick(span.begin, span.end);
      continue;
    }
    for (int t = span.begin; t < span.end;) {
      const int end = std::min(span.end, (t / RowShare::kBlock + 1) * RowShare::kBlock);
      if (batch.index_rows.has(t)) pick(t, end);
      t = end;
    }
  }
  flush();
}

void AttentionOps::index_scores(Tensor scores, std::span<const int32_t> tokens, Tensor index_q,
                                Tensor head_weight, const KvView& kv, const BatchView& batch) {
  if (!fits_index(index_q, kv))
    return ReferenceOps::index_scores(scores, tokens, index_q, head_weight, kv, batch);
  int64_t ldq = 0;
  const uint32_t* q = index_words(index_q, batch, ldq);
  for (size_t i = 0; i < tokens.size(); ++i) {
    int64_t count = position_of(batch, tokens[i]) + 1;
    score_list_.clear();
    add_score_rows(tokens[i], tokens[i] + 1, batch);
    score_rows(q, ldq, head_weight, kv, batch);
    std::memcpy(scores.row<float>(static_cast<int64_t>(i)), scores_,
                static_cast<size_t>(count) * sizeof(float));
  }
  score_list_.clear();
}

}  // namespace fathom
