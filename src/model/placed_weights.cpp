#include "model/placed_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "kernels/cpu/rows.h"
#include "kernels/gpu.h"
#include "model/tensor_list.h"

namespace fathom {
namespace {

constexpr int64_t kAlign = 256;  // of every array, except those that follow the first of a group
constexpr float kCodeDeviation = 64.0f;  // standard deviation of random e4m3 codes

int64_t fp8_blocks(int64_t n) { return (n + kFp8Block - 1) / kFp8Block; }

// Calls f(row, first column, elements, elements before) for the rows of elements [begin, end).
template <class F>
void for_rows(const QWeight& w, int64_t begin, int64_t end, F&& f) {
  for (int64_t i = begin; i < end;) {
    const int64_t column = i % w.cols, n = std::min(w.cols - column, end - i);
    f(i / w.cols, column, n, i - begin);
    i += n;
  }
}

// Elements [begin, end) of a matrix, row by row, as they are stored,
void write_codes(const QWeight& w, int64_t begin, int64_t end, std::byte* to) {
  for_rows(w, begin, end, [&](int64_t row, int64_t column, int64_t n, int64_t at) {
    std::memcpy(to + at, w.row<uint8_t>(row) + column, static_cast<size_t>(n));
  });
}
// and as bf16.
void write_bf16(const QWeight& w, int64_t begin, int64_t end, std::byte* to) {
  Bf16* out = reinterpret_cast<Bf16*>(to);
  for_rows(w, begin, end, [&](int64_t row, int64_t column, int64_t n, int64_t at) {
    if (w.dtype == DType::bf16)
      std::memcpy(out + at, w.row<Bf16>(row) + column, static_cast<size_t>(n) * sizeof(Bf16));
    else
      for (int64_t c = 0; c < n; ++c) out[at + c] = to_bf16(weight_at(w, row, column + c));
  });
}

// Walks the weights in the order in which they are placed. With a base address it sets the pointers
// of `to` and lists the copies to make; without one it only counts bytes.
class Placement {
 public:
  Placement(const Config& c, const Weights& from, Weights& to, Numerics numerics, std::byte* base)
      : c_(c), from_(from), to_(to), fp8_(numerics == Numerics::fp8), base_(base) {}

  void all() {
    matrix(from_.embed, to_.embed);
    vector(from_.norm, to_.norm, c_.hidden);
    matrix(from_.head, to_.head);
    to_.layers.resize(from_.layers.size());
    for (size_t l = 0; l < from_.layers.size(); ++l) layer(from_.layers[l], to_.layers[l]);
    if (from_.mtp) {
      const MtpWeights& f = *from_.mtp;
      MtpWeights& t = to_.mtp.emplace();
      vector(f.embed_norm, t.embed_norm, c_.hidden);
      vector(f.hidden_norm, t.hidden_norm, c_.hidden);
      vector(f.head_norm, t.head_norm, c_.hidden);
      matrix(f.combine, t.combine);
      layer(f.block, t.block);
    }
  }

  int64_t bytes() const { return at_; }
  std::vector<UploadPiece>& pieces() { return pieces_; }

  // The arrays by content, for filling them with random values.
  struct Array {
    std::byte* at;
    int64_t count;   // elements
    int64_t inputs;  // of one output: columns of the matrix
  };
  std::vector<Array> codes, halves, scales, vectors;

 private:
  struct Pair {
    const QWeight* from;
    QWeight* to;
  };

  void layer(const LayerWeights& f, LayerWeights& t) {
    t.is_moe = f.is_moe;
    vector(f.attention_norm, t.attention_norm, c_.hidden);
    vector(f.ffn_norm, t.ffn_norm, c_.hidden);
    const AttentionWeights& a = f.attention;
    AttentionWeights& b = t.attention;
    vector(a.q_norm, b.q_norm, c_.q_rank);
    vector(a.kv_norm, b.kv_norm, c_.latent);
    const bool indexer = a.indexer.k.rows > 0;
    // kv_a comes last, as its 576 rows end within a block of scales.
    if (indexer) {
      group({{&a.q_a, &b.q_a}, {&a.indexer.k, &b.indexer.k}, {&a.kv_a, &b.kv_a}});
      group({{&a.q_b, &b.q_b}, {&a.indexer.q_b, &b.indexer.q_b}});
      matrix(a.indexer.head_weight, b.indexer.head_weight);
      vector(a.indexer.k_norm.weight, b.indexer.k_norm.weight, c_.index_dim);
      vector(a.indexer.k_norm.bias, b.indexer.k_norm.bias, c_.index_dim);
    } else {
      group({{&a.q_a, &b.q_a}, {&a.kv_a, &b.kv_a}});
      matrix(a.q_b, b.q_b);
    }
    kv_up(a.kv_up, b.kv_up);
    matrix(a.o, b.o);
    if (!f.is_moe) return mlps({&f.mlp, 1}, {&t.mlp, 1});
    matrix(f.moe.gate, t.moe.gate);
    vector(f.moe.bias, t.moe.bias, c_.experts);
    t.moe.experts.resize(f.moe.experts.size());
    mlps(f.moe.experts, t.moe.experts);
    if (f.moe.shared.gate.rows > 0) mlps({&f.moe.shared, 1}, {&t.moe.shared, 1});
  }

  void mlps(std::span<const MlpWeights> from, std::span<MlpWeights> to) {
    std::vector<Pair> up, down;
    for (size_t i = 0; i < from.size(); ++i) {
      up.push_back({&from[i].gate, &to[i].gate});
      up.push_back({&from[i].up, &to[i].up});
      down.push_back({&from[i].down, &to[i].down});
    }
    group(up);
    group(down);
  }

  void matrix(const QWeight& from, QWeight& to) { group({{&from, &to}}); }

  // All codes one after the other, then all scales; or bf16 values.
  void group(const std::vector<Pair>& pairs) {
    align();
    for (const Pair& p : pairs) {
      QWeight& t = *p.to;
      t = {};
      t.rows = p.from->rows;
      t.cols = p.from->cols;
      t.dtype = fp8_ && p.from->is_fp8() ? DType::fp8_e4m3 : DType::bf16;
      t.data = values(*p.from, t);
    }
    align();
    for (const Pair& p : pairs)
      if (p.to->is_fp8()) {
        p.to->scale_stride = fp8_blocks(p.to->cols);
        p.to->pow2_scale = p.from->pow2_scale;
        p.to->scale = block_scales(*p.from);
      }
  }

  // The scales of a matrix, without those beside it in a larger one.
  const float* block_scales(const QWeight& from) {
    const int64_t width = fp8_blocks(from.cols), n = fp8_blocks(from.rows) * width;
    if (from.scale == unfilled() || from.scale_stride == width)
      return floats(from.scale, n, scales, from.cols);
    std::byte* address = take(n * 4);
    if (!base_) return nullptr;
    scales.push_back({address, n, from.cols});
    pieces_.push_back({address, static_cast<size_t>(n) * 4, [from, width, n](std::byte* out) {
                         float* to = reinterpret_cast<float*>(out);
                         for (int64_t i = 0; i < n; ++i)
                           to[i] = from.scale[i / width * from.scale_stride + i % width];
                       }});
    return reinterpret_cast<const float*>(address);
  }

  const void* values(const QWeight& from, const QWeight& to) {
    const int64_t count = to.rows * to.cols, size = static_cast<int64_t>(size_of(to.dtype));
    std::byte* address = take(count * size);
    if (!base_) return nullptr;
    const bool copy = to.is_fp8();
    (copy ? codes : halves).push_back({address, count, to.cols});
    if (!from.data) return address;
    FATHOM_CHECK(from.row_offset == 0, "a part that begins at row {} of an FP8 block is placed",
                 from.row_offset);
    const int64_t step = static_cast<int64_t>(kUploadPiece) / size;
    for (int64_t begin = 0; begin < count; begin += step) {
      const int64_t end = std::min(count, begin + step);
      const QWeight w = from;
      pieces_.push_back({address + begin * size, static_cast<size_t>((end - begin) * size),
                         [w, begin, end, copy](std::byte* out) {
                           if (copy)
                             write_codes(w, begin, end, out);
                           else
                             write_bf16(w, begin, end, out);
                         }});
    }
    return address;
  }

  void vector(const float* from, const float*& to, int64_t n) {
    to = nullptr;
    if (!from) return;
    align();
    to = floats(from, n, vectors, 1);
  }

  const float* floats(const float* from, int64_t n, std::vector<Array>& kind, int64_t inputs) {
    std::byte* address = take(n * 4);
    if (!base_) return nullptr;
    kind.push_back({address, n, inputs});
    const int64_t step = static_cast<int64_t>(kUploadPiece) / 4;
    for (int64_t begin = 0; from != unfilled() && begin < n; begin += step) {
      const size_t bytes = static_cast<size_t>(std::min(step, n - begin)) * 4;
      pieces_.push_back({address + begin * 4, bytes, [from, begin, bytes](std::byte* out) {
                           std::memcpy(out, from + begin, bytes);
                         }});
    }
    return reinterpret_cast<const float*>(address);
  }

  void kv_up(const KvUpWeights& f, KvUpWeights& t) {
    t = f;
    // kv_b itself is used only by the reference implementation, which observers run on shared
    // memory.
    matrix(f.kv_b, t.kv_b);
    const int64_t heads = f.heads, nope = f.nope, value = f.value, latent = f.latent;
    const int64_t width = nope + value;
    t.absorb = half_array(heads * latent * nope, nope);
    t.value_up = half_array(heads * value * latent, latent);
    if (!base_ || !f.kv_b.data) return;
    // One piece a head: a megabyte at most.
    for (int64_t h = 0; h < heads; ++h) {
      const QWeight w = f.kv_b;
      const int64_t first = h * width;
      pieces_.push_back({const_cast<Bf16*>(t.absorb) + h * latent * nope,
                         static_cast<size_t>(latent * nope) * sizeof(Bf16),
                         [w, first, nope, latent](std::byte* to) {
                           Bf16* out = reinterpret_cast<Bf16*>(to);
                           for (int64_t j = 0; j < nope; ++j)
                             for (int64_t i = 0; i < latent; ++i)
                               out[i * nope + j] = to_bf16(weight_at(w, first + j, i));
                         }});
      pieces_.push_back({const_cast<Bf16*>(t.value_up) + h * value * latent,
                         static_cast<size_t>(value * latent) * sizeof(Bf16),
                         [w, first, nope, value, latent](std::byte* to) {
                           write_bf16(w, (first + nope) * latent, (first + nope + value) * latent,
                                      to);
                         }});
    }
  }

  const Bf16* half_array(int64_t count, int64_t inputs) {
    align();
    std::byte* address = take(count * 2);
    if (base_) halves.push_back({address, count, inputs});
    return base_ ? reinterpret_cast<const Bf16*>(address) : nullptr;
  }

  void align() { at_ = (at_ + kAlign - 1) / kAlign * kAlign; }
  std::byte* take(int64_t bytes) {
    std::byte* p = base_ ? base_ + at_ : nullptr;
    at_ += bytes;
    return p;
  }

 public:
  // Stands for a vector that exists but has no values yet.
  static const float* unfilled() {
    static const float none = 0;
    return &none;
  }

 private:
  const Config& c_;
  const Weights& from_;
  Weights& to_;
  const bool fp8_;
  std::byte* const base_;
  int64_t at_ = 0;
  std::vector<UploadPiece> pieces_;
};

// A rank's weights as shapes without data, FP8 where published checkpoints are.
Weights shapes_of(const Config& c, const RankLayout& layout) {
  Weights w;
  for_each_tensor(c, w, [&](const TensorSpec& spec, WeightSlot slot) {
    if (slot.vector) {
      *slot.vector = Placement::unfilled();
      return;
    }
    const TensorShare share = share_of(spec, c, layout);
    if (share.empty()) return;
    slot.matrix->rows = share.rows();
    slot.matrix->cols = share.cols();
    slot.matrix->dtype = spec.kind == Kind::matrix ? DType::fp8_e4m3 : DType::bf16;
    slot.matrix->scale = Placement::unfilled();
  });
  for_each_layer(w, [&](LayerWeights& l) { l.attention.kv_up.heads /= layout.tensor; });
  return w;
}

}  // namespace

int64_t PlacedWeights::bytes_on_gpu(const Config& config, Numerics numerics,
                                    const RankLayout& layout) {
  Weights shapes = shapes_of(config, layout), to;
  Placement count(config, shapes, to, numerics, nullptr);
  count.all();
  return count.bytes();
}

int64_t PlacedWeights::bytes_of_copy(const Config& config, const Weights& host, Numerics numerics) {
  Weights to;
  Placement count(config, host, to, numerics, nullptr);
  count.all();
  return count.bytes();
}

PlacedWeights PlacedWeights::copy_to_gpu(const Config& config, const Weights& host,
                                         Numerics numerics, MemoryKind kind,
                                         const std::function<void(int64_t)>& copied) {
  PlacedWeights placed;
  placed.memory_ = Buffer(static_cast<size_t>(bytes_of_copy(config, host, numerics)), kind);
  Placement place(config, host, *placed.weights_, numerics, placed.memory_.data());
  place.all();
  if (kind == MemoryKind::device) {
    upload_to_gpu(place.pieces(), copied);
  } else {
    for (const UploadPiece& p : place.pieces()) p.fill(static_cast<std::byte*>(p.to));
  }
  return placed;
}

PlacedWeights PlacedWeights::random(const Config& config, Numerics numerics, uint64_t seed,
                                    const RankLayout& layout) {
  PlacedWeights placed;
  placed.memory_ =
      Buffer(static_cast<size_t>(bytes_on_gpu(config, numerics, layout)), MemoryKind::device);
  Weights shapes = shapes_of(config, layout);
  Placement place(config, shapes, *placed.weights_, numerics, placed.memory_.data());
  place.all();
  for (const auto& a : place.codes) fill_random_fp8(a.at, a.count, ++seed);
  for (const auto& a : place.halves)
    fill_random_bf16(a.at, a.count, 1.0f / std::sqrt(static_cast<float>(a.inputs)), ++seed);
  std::vector<UploadPiece> pieces;
  auto constant = [&](const Placement::Array& a, float value) {
    const int64_t step = static_cast<int64_t>(kUploadPiece) / 4;
    for (int64_t begin = 0; begin < a.count; begin += step) {
      const int64_t n = std::min(step, a.count - begin);
      pieces.push_back({a.at + begin * 4, static_cast<size_t>(n) * 4, [n, value](std::byte* to) {
                          std::fill_n(reinterpret_cast<float*>(to), n, value);
                        }});
    }
  };
  for (const auto& a : place.vectors) constant(a, 1.0f);
  // A power of two, as published scales are.
  for (const auto& a : place.scales)
    constant(a, std::exp2(std::round(
                    -std::log2(kCodeDeviation * std::sqrt(static_cast<float>(a.inputs))))));
  upload_to_gpu(pieces);
  return placed;
}

}  // namespace fathom
