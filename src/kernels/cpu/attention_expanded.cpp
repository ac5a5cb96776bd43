// The expanded form: keys and values of each head from the latent rows, causal and picked masks,
// online softmax over key tiles at positions that are multiples of 64.
//
// Nothing grows with queries times keys: keys and values are expanded for a group of heads and of
// key tiles at a time, and the softmax state of a block of queries waits in memory between groups.
#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "kernels/cpu/attention_ops.h"

namespace fathom {
namespace {

using K = KernelDims;

// Which keys of a tile a query sees, tile after tile.
class VisibleKeys {
 public:
  VisibleKeys(Tensor picked, int token, int64_t position, int64_t first_key) : position_(position) {
    if (picked.empty()) return;
    const int32_t* row = picked.row<int32_t>(token);
    end_ = std::partition_point(row, row + picked.row_size(), [](int32_t p) { return p >= 0; });
    if (end_ - row == position + 1) return;  // all earlier positions are picked: the mask is causal
    sparse_ = true;
    next_ = std::lower_bound(row, end_, first_key);
  }
  uint64_t of_tile(int64_t tile) {
    const int64_t first = tile * kPanelWidth;
    if (!sparse_) {
      int64_t n = position_ + 1 - first;
      return n >= kPanelWidth ? ~uint64_t{0} : n <= 0 ? 0 : (uint64_t{1} << n) - 1;
    }
    uint64_t mask = 0;
    for (; next_ != end_ && *next_ < first + kPanelWidth; ++next_)
      mask |= uint64_t{1} << (*next_ - first);
    return mask;
  }

 private:
  int64_t position_;
  bool sparse_ = false;
  const int32_t *next_ = nullptr, *end_ = nullptr;
};

}  // namespace

void AttentionOps::attend_expanded(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked,
                                   const KvView& kv, const BatchView& batch, float scale) {
  if (!fits(up, kv)) return ReferenceOps::attend_expanded(out, q, up, picked, kv, batch, scale);
  bool any = false;
  for (const AttentionSpan& span : batch.spans) any |= span.form == AttentionForm::expanded;
  if (!any) return;
  Attention a{out, q, up, picked, kv, batch, scale * kLog2E};
  for (int head = 0; head < up.heads; head += head_group_) {
    ExpandedBlock b{0, 0, head, std::min(head_group_, up.heads - head), 0, 0};
    expand_weights(a, b);
    for (const AttentionSpan& span : batch.spans) {
      if (span.form != AttentionForm::expanded) continue;
      for (b.begin = span.begin; b.begin < span.end; b.begin = b.end) {
        b.end = std::min(span.end, b.begin + query_tile_);
        attend_block(a, b);
      }
    }
  }
}

void AttentionOps::attend_block(const Attention& a, ExpandedBlock& b) {
  const int64_t state = int64_t{b.heads} * query_tile_;
  std::memset(state_out_, 0, sizeof(float) * static_cast<size_t>(state) * K::kValue);
  std::fill_n(state_top_, state, kNoScore);
  std::fill_n(state_sum_, state, 0.0f);
  const int tokens = b.end - b.begin;
  const int64_t all_tiles = a.batch.positions[b.end - 1] / kPanelWidth + 1;
  // If there are enough query blocks for all threads, one item covers all heads of a block, so that
  // the masks are built once for all of them.
  const int blocks = (tokens + kQueryBlock - 1) / kQueryBlock;
  const int parts = std::clamp((4 * pool_.size() + blocks - 1) / blocks, 1, b.heads);
  const int part = (b.heads + parts - 1) / parts;
  const int items = (b.heads + part - 1) / part;
  for (b.first_tile = 0; b.first_tile < all_tiles; b.first_tile += tile_group_) {
    b.tiles = std::min(tile_group_, all_tiles - b.first_tile);
    expand_tiles(a, b);
    pool_.parallel_dynamic(
        int64_t{blocks} * items, 1, [&](int64_t first, int64_t last, int thread) {
          for (int64_t i = first; i < last; ++i) {
            // Later queries see more keys: the long items go first.
            int block = blocks - 1 - static_cast<int>(i / items);
            int head = static_cast<int>(i % items) * part;
            int begin = b.begin + block * kQueryBlock;
            attend_queries(a, b, begin, std::min(b.end, begin + kQueryBlock), head,
                           std::min(part, b.heads - head), scratch_[static_cast<size_t>(thread)]);
          }
        });
  }
}

// The value part of a head's kv_b as two panels of [latent][64].
void AttentionOps::pack_value_weights(const KvUpWeights& up, int head, uint32_t* panel,
                                      Scratch& s) const {
  load_weights(up.kv_b, int64_t{head} * (K::kNope + K::kValue) + K::kNope, K::kValue, s.weights);
  for (int c = 0; c < K::kValue; c += kPanelWidth) {
    const void* rows[kPanelWidth];
    for (int r = 0; r < kPanelWidth; ++r) rows[r] = s.weights + (c + r) * words(K::kLatent);
    attention_.pack_lanes(rows, static_cast<int>(words(K::kLatent)), panel + c * words(K::kLatent));
  }
}

void AttentionOps::expand_weights(const Attention& a, const ExpandedBlock& b) {
  pool_.parallel_dynamic(b.heads, 1, [&](int64_t first, int64_t last, int thread) {
    for (int64_t h = first; h < last; ++h) {
      const int head = b.head + static_cast<int>(h);
      load_weights(a.up.kv_b, int64_t{head} * (K::kNope + K::kValue), K::kNope,
                   key_weights_ + h * words(K::kNope * K::kLatent));
      pack_value_weights(a.up, head, value_weights_ + h * words(K::kValue * K::kLatent),
                         scratch_[static_cast<size_t>(thread)]);
    }
  });
}

// Keys and values of tiles [first_tile, first_tile + tiles), all heads of the group.
void AttentionOps::expand_tiles(const Attention& a, const ExpandedBlock& b) {
  const int64_t last_position = a.batch.positions[b.end - 1];
  pool_.parallel_for(b.tiles * b.heads, 1, [&](int64_t first, int64_t last, int thread) {
    Scratch& s = scratch_[static_cast<size_t>(thread)];
    const void* rows[kPanelWidth];
    int64_t loaded = -1;
    for (int64_t i = first; i < last; ++i) {
      const int64_t tile = i / b.heads;
      if (tile != loaded) {
        const int64_t position = (b.first_tile + tile) * kPanelWidth;
        for (int j = 0; j < kPanelWidth; ++j) {
          // Cache rows after the last position were never written. They are replaced by zeros,
          // because a weight of 0 times NaN would be NaN.
          uint32_t* row = s.rows + j * words(K::kRow);
          const void* from = zero_row_;
          if (position + j <= last_position)
            from = latent_words(a.kv, a.batch.cache_row(b.begin, position + j), row);
          if (from != row)
            std::memcpy(row, from, sizeof(uint32_t) * static_cast<size_t>(words(K::kRow)));
          rows[j] = row;
        }
        attention_.pack_lanes(rows, static_cast<int>(words(K::kRow)), s.lanes);
        loaded = tile;
      }
      expand_head(tile, static_cast<int>(i % b.heads), s);
    }
  });
}

// One head's keys, [nope + rope][64 keys], and values, [64 keys][value], rounded.
void AttentionOps::expand_head(int64_t tile, int head, Scratch& s) {
  const int latent = static_cast<int>(words(K::kLatent));
  const int64_t slot = tile * head_group_ + head;
  uint32_t* keys = key_panels_ + slot * words(K::kQuery) * kPanelWidth;
  uint32_t* values = value_panels_ + slot * words(kPanelWidth) * K::kValue;
  const uint32_t* wk = key_weights_ + head * words(K::kNope * K::kLatent);
  const uint32_t* wv = value_weights_ + head * words(K::kValue * K::kLatent);
  float* out = wide_ ? reinterpret_cast<float*>(keys) : s.product;
  element().product(
      {wk, latent, s.lanes, kPanelWidth, latent, out, kPanelWidth, K::kNope, nullptr});
  if (!wide_) attention_.round_pairs(out, kPanelWidth, K::kNope / 2, keys, kPanelWidth);
  if (wide_ && !exact_) attention_.to_rounded(out, K::kNope * kPanelWidth, 1.0f, out);
  std::memcpy(keys + words(K::kNope) * kPanelWidth, s.lanes + words(K::kLatent) * kPanelWidth,
              sizeof(uint32_t) * static_cast<size_t>(words(K::kRope)) * kPanelWidth);
  for (int c = 0; c < K::kValue; c += kPanelWidth) {
    float* to = wide_ ? reinterpret_cast<float*>(values) + c : s.product;
    const int64_t ld = wide_ ? K::kValue : kPanelWidth;
    element().product({s.rows, words(K::kRow), wv + c * latent, kPanelWidth, latent, to, ld,
                       kPanelWidth, nullptr});
    if (!wide_) attention_.round_pairs(to, ld, kPanelWidth / 2, values + c, K::kValue);
  }
  float* all = reinterpret_cast<float*>(values);
  if (wide_ && !exact_) attention_.to_rounded(all, kPanelWidth * K::kValue, 1.0f, all);
}

// Queries [begin, end), heads [head, head + heads) of the group, over the tiles expanded.
void AttentionOps::attend_queries(const Attention& a, const ExpandedBlock& b, int begin, int end,
                                  int head, int heads, Scratch& s) {
  const int rows = end - begin;
  const int64_t tiles_seen = a.batch.positions[end - 1] / kPanelWidth + 1;
  const int64_t stop = std::min(b.tiles, tiles_seen - b.first_tile);
  if (stop <= 0) return;
  std::array<std::optional<VisibleKeys>, kQueryBlock> visible;
  for (int r = 0; r < rows; ++r)
    visible[r].emplace(a.picked, begin + r, a.batch.positions[begin + r],
                       b.first_tile * kPanelWidth);
  const void* queries[kMaxHeadGroup];
  int64_t stride = 0;
  for (int h = 0; h < heads; ++h)
    queries[h] = query_words(a.q, begin, rows, int64_t{b.head + head + h} * K::kQuery, K::kQuery,
                             s.queries + int64_t{h} * kQueryBlock * K::kQuery, stride);
  for (int64_t tile = 0; tile < stop; ++tile) {
    uint64_t any = 0;
    for (int r = 0; r < rows; ++r) any |= s.masks[r] = visible[r]->of_tile(b.first_tile + tile);
    if (any == 0) continue;
    for (int h = head; h < head + heads; ++h) {
      const int64_t slot = tile * head_group_ + h;
      const int64_t state = int64_t{h} * query_tile_ + (begin - b.begin);
      const uint32_t* keys = key_panels_ + slot * words(K::kQuery) * kPanelWidth;
      const uint32_t* values = value_panels_ + slot * words(kPanelWidth) * K::kValue;
      element().product({queries[h - head], stride, keys, kPanelWidth,
                         static_cast<int>(words(K::kQuery)), s.scores, kPanelWidth, rows, nullptr});
      element().softmax({s.scores, s.masks, 1, rows, a.scale, state_top_ + state,
                         state_sum_ + state, s.carry, s.shares});
      for (int c = 0; c < K::kValue; c += kPanelWidth)
        element().product({s.shares, words(kPanelWidth), values + c, K::kValue,
                           static_cast<int>(words(kPanelWidth)), state_out_ + state * K::kValue + c,
                           K::kValue, rows, s.carry});
    }
  }
  if (b.first_tile + stop < tiles_seen) return;  // more keys to come
  for (int h = head; h < head + heads; ++h) finish_queries(a, b, begin, end, h);
}

void AttentionOps::finish_queries(const Attention& a, const ExpandedBlock& b, int begin, int end,
                                  int head) {
  for (int t = begin; t < end; ++t) {
    const int64_t state = int64_t{head} * query_tile_ + (t - b.begin);
    const float sum = state_sum_[state];
    store_scaled(element_at(a.out, t, int64_t{b.head + head} * K::kValue),
                 state_out_ + state * K::kValue, K::kValue, sum > 0 ? 1.0f / sum : 0.0f);
  }
}

}  // namespace fathom
