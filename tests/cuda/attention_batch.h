// A batch of prefill spans with its latent cache, for tests of both attention forms: pages in
// random order, rows no position owns poisoned with NaN, picked positions drawn at random.
#pragma once

#include <numeric>

#include "kernels/cuda/attention/mla_prefill.h"
#include "numerics/cache_rows.h"
#include "support.h"

namespace fathom::cuda {

struct SpanShape {
  int tokens;
  int context;
};

class AttentionBatch {
 public:
  static constexpr int kRow = KernelDims::kLatent + KernelDims::kRope;

  std::vector<PrefillSpan> spans;
  std::vector<int32_t> positions, sequence_of, tables, picked;
  std::vector<float> rows;  // [pages * 64, 576] as the kernels read them
  std::vector<std::byte> cache;
  bool fp8;
  int tokens = 0, max_pages = 0, topk;

  // topk = 0: dense. `missing` entries of every picked row stay -1.
  AttentionBatch(const std::vector<SpanShape>& shapes, bool fp8_rows, int picks, int missing = 0)
      : fp8(fp8_rows), topk(picks) {
    for (const SpanShape& s : shapes) {
      const int sequence = static_cast<int>(spans.size());
      spans.push_back({tokens, tokens + s.tokens, sequence, s.context});
      for (int i = 0; i < s.tokens; ++i) {
        positions.push_back(s.context - s.tokens + i);
        sequence_of.push_back(sequence);
      }
      tokens += s.tokens;
      max_pages = std::max(max_pages, (s.context + kPageRows - 1) / kPageRows);
    }
    fill_cache();
    pick(missing);
  }

  int64_t row(int token, int position) const {
    return row_of(tables.data() + int64_t{sequence_of[token]} * max_pages, position);
  }

  std::vector<int> keys_of(int token) const {
    std::vector<int> keys;
    if (topk == 0) {
      keys.resize(static_cast<size_t>(positions[token]) + 1);
      std::iota(keys.begin(), keys.end(), 0);
    } else {
      for (int i = 0; i < topk && picked[int64_t{token} * topk + i] >= 0; ++i)
        keys.push_back(picked[int64_t{token} * topk + i]);
    }
    return keys;
  }

 private:
  void fill_cache() {
    const size_t pages = spans.size() * static_cast<size_t>(max_pages) + 3;
    std::vector<int32_t> order(pages);
    std::iota(order.begin(), order.end(), 0);
    std::mt19937 generator(5);
    std::shuffle(order.begin(), order.end(), generator);
    tables.assign(order.begin(), order.end() - 3);
    std::vector<char> used(pages * kPageRows);
    for (const PrefillSpan& s : spans)
      for (int64_t p = 0; p < s.context; ++p) used[row(s.begin, static_cast<int>(p))] = 1;
    rows = random_floats(pages * kPageRows * kRow, 3);
    cache.assign(pages * kPageRows * (fp8 ? sizeof(LatentRowFp8) : kRow * sizeof(Bf16)),
                 std::byte{0xFF});
    parallel(static_cast<int64_t>(used.size()), [&](int64_t r) {
      if (used[r]) store_row(r);
    });
  }

  void store_row(int64_t r) {
    float* x = &rows[r * kRow];
    for (int i = 0; i < kRow; ++i) x[i] = round_bf16(x[i]);
    if (!fp8) {
      Bf16* to = reinterpret_cast<Bf16*>(cache.data()) + r * kRow;
      for (int i = 0; i < kRow; ++i) to[i] = to_bf16(x[i]);
      return;
    }
    LatentRowFp8& to = reinterpret_cast<LatentRowFp8*>(cache.data())[r];
    for (int g = 0; g < KernelDims::kLatent / kFp8Block; ++g) {
      float amax = 0;
      for (int i = 0; i < kFp8Block; ++i) amax = std::fmax(amax, std::fabs(x[g * kFp8Block + i]));
      to.scale[g] = group_scale(amax, true);
      for (int i = g * kFp8Block; i < (g + 1) * kFp8Block; ++i) {
        to.code[i] = quantise(x[i], to.scale[g]);
        x[i] = fp8_to_float(to.code[i]) * to.scale[g];
      }
    }
    for (int i = 0; i < KernelDims::kRope; ++i) to.rope[i] = to_bf16(x[KernelDims::kLatent + i]);
  }

  void pick(int missing) {
    if (topk == 0) return;
    picked.assign(static_cast<size_t>(tokens) * topk, -1);
    parallel(tokens, [&](int64_t t) {
      std::mt19937 generator(static_cast<uint32_t>(t) + 77);
      int left = positions[t] + 1, want = std::max(1, std::min(topk, left) - missing), n = 0;
      for (int p = 0; p <= positions[t]; ++p, --left)  // each of the rest with equal chance
        if (static_cast<int>(generator() % left) < want - n) picked[t * topk + n++] = p;
    });
  }
};

// The batch on the device.
struct DeviceBatch {
  DeviceArray<std::byte> rows;
  DeviceArray<int32_t> tables, sequence_of, positions, picked;

  explicit DeviceBatch(const AttentionBatch& b)
      : rows(b.cache),
        tables(b.tables),
        sequence_of(b.sequence_of),
        positions(b.positions),
        picked(b.picked) {}
  LatentCache cache(const AttentionBatch& b) const {
    LatentCache c;
    c.rows = rows.data();
    c.fp8 = b.fp8;
    c.page_tables = tables.data();
    c.max_pages = b.max_pages;
    c.sequence_of = sequence_of.data();
    c.positions = positions.data();
    return c;
  }
};

// Softmax in place; `score` times scale, the rest exactly.
inline void softmax(std::vector<double>& score) {
  double top = *std::max_element(score.begin(), score.end()), sum = 0;
  for (double& s : score) sum += s = std::exp(s - top);
  for (double& s : score) s /= sum;
}

}  // namespace fathom::cuda
