// A paged cache with random tokens of several sequences, and the Ops that are tested on it.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/attention_ops.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu_ops.h"
#include "numerics/rope.h"

namespace fathom {

using K = KernelDims;

struct OpsChoice {
  const char* name;
  const GemmKernels* gemm;  // null: the reference
  const AttentionKernels* attention;
};

// Those that this processor can run.
inline std::vector<OpsChoice> fast_choices() {
  std::vector<OpsChoice> rows;
#if defined(__x86_64__)
  for (const OpsChoice& row : {OpsChoice{"amx", &kGemmAmx, &kAttentionAmx},
                               {"avx512", &kGemmAvx512, &kAttentionAvx512},
                               {"avx512f32", &kGemmAvx512F32, &kAttentionAvx512F32},
                               {"avx2", &kGemmAvx2, &kAttentionAvx2}})
    for (const CpuKernels& k : cpu_kernels())
      if (k.name == row.name && k.usable()) rows.push_back(row);
#endif
  return rows;
}

inline std::unique_ptr<Ops> make(const OpsChoice& choice, Numerics numerics, const Workload& w,
                                 ThreadPool& pool) {
  if (!choice.gemm) return std::make_unique<ReferenceOps>(numerics, w, pool);
  return std::make_unique<AttentionOps>(numerics, w, pool, *choice.gemm, *choice.attention);
}

inline DType activation_dtype(Numerics n) {
  return n == Numerics::exact ? DType::f32 : DType::bf16;
}

// Memory of a tensor, in any dtype; filled with a pattern that reads as NaN.
struct Memory {
  std::vector<std::byte> bytes;
  Tensor tensor;

  Memory() = default;
  Memory(DType dtype, std::initializer_list<int64_t> shape) {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    bytes.assign(static_cast<size_t>(n) * size_of(dtype), std::byte{0xFF});
    tensor = Tensor(bytes.data(), dtype, shape);
  }
  float at(int64_t row, int64_t i) const {
    int64_t e = row * tensor.row_stride + i;
    if (tensor.dtype == DType::f32) return static_cast<const float*>(tensor.data)[e];
    return to_float(static_cast<const Bf16*>(tensor.data)[e]);
  }
  void set(int64_t row, int64_t i, float v) { store(tensor, row, i, v); }
};

// Random numbers that are the same everywhere.
class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  float normal() {  // nearly: the sum of 12 uniforms
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return static_cast<float>(sum);
  }
  double uniform() { return engine_() * 0x1p-32; }
  int below(int n) { return static_cast<int>(engine_() % static_cast<uint32_t>(n)); }
  void fill(Memory& m, float scale) {
    for (int64_t r = 0; r < m.tensor.rows(); ++r)
      for (int64_t i = 0; i < m.tensor.row_size(); ++i) m.set(r, i, scale * normal());
  }

 private:
  std::mt19937 engine_;
};

// A weight with its memory.
struct Weight {
  std::vector<std::byte> bytes;
  std::vector<float> scales;
  QWeight view;

  Weight(DType dtype, int64_t rows, int64_t cols, Random& random, bool ue8m0 = true) {
    bytes.resize(static_cast<size_t>(rows * cols) * size_of(dtype));
    view.data = bytes.data();
    view.dtype = dtype;
    view.rows = rows;
    view.cols = cols;
    view.scale_stride = (cols + kFp8Block - 1) / kFp8Block;
    if (dtype == DType::fp8_e4m3) {
      scales.resize(static_cast<size_t>((rows + kFp8Block - 1) / kFp8Block * view.scale_stride));
      for (float& s : scales) s = std::ldexp(1.0f, -10 + random.below(2)) * (ue8m0 ? 1.0f : 1.3f);
      view.scale = scales.data();
      view.pow2_scale = ue8m0;
    }
    for (int64_t i = 0; i < rows * cols; ++i) {
      float x = static_cast<float>(random.uniform() - 0.5) * 0.17f;  // weights are many
      switch (dtype) {
        case DType::fp8_e4m3:
          reinterpret_cast<uint8_t*>(bytes.data())[i] = float_to_fp8(x * 1024);
          break;
        case DType::bf16:
          reinterpret_cast<Bf16*>(bytes.data())[i] = to_bf16(x);
          break;
        case DType::f16:  // sign, exponent 10 or 11, random mantissa: 0.03 to 0.125
          reinterpret_cast<uint16_t*>(bytes.data())[i] = static_cast<uint16_t>(
              (random.below(2) << 15) | ((10 + random.below(2)) << 10) | random.below(1024));
          break;
        default:
          reinterpret_cast<float*>(bytes.data())[i] = x;
      }
    }
  }
  float at(int64_t r, int64_t c) const { return weight_at(view, r, c); }
};

// New tokens of one sequence in the batch, after `before` cached ones.
struct Part {
  int before, tokens;
  AttentionForm form = AttentionForm::absorbed;
};

// Everything one step of attention needs.
struct Scene {
  Numerics numerics;
  Workload w;
  std::vector<Part> parts;
  std::vector<int32_t> positions, sequence_of, page_tables;
  std::vector<AttentionSpan> spans;
  std::vector<std::byte> latent, index;
  std::vector<float> cos, sin;
  KvView kv;
  RopeTable rope;
  BatchView batch;
  int64_t rows = 0;

  Scene(Numerics n, KvFormat kv_format, std::vector<Part> what, int heads, int index_heads,
        int topk, uint32_t seed = 1)
      : numerics(n), parts(std::move(what)) {
    w.heads = heads;
    w.nope = K::kNope, w.rope = K::kRope, w.value = K::kValue, w.latent = K::kLatent;
    w.index_heads = index_heads, w.index_dim = K::kIndex, w.index_topk = topk;
    w.hidden = 128, w.max_intermediate = 128, w.q_rank = 128, w.vocab = 16;
    int max_pages = 0, pages = 0;
    for (size_t s = 0; s < parts.size(); ++s) {
      const Part& p = parts[s];
      int begin = static_cast<int>(positions.size());
      for (int i = 0; i < p.tokens; ++i) {
        positions.push_back(p.before + i);
        sequence_of.push_back(static_cast<int32_t>(s));
      }
      spans.push_back({begin, begin + p.tokens, static_cast<int>(s), p.form});
      int need = (p.before + p.tokens + kPageRows - 1) / kPageRows;
      w.context = std::max<int64_t>(w.context, p.before + p.tokens);
      max_pages = std::max(max_pages, need);
      pages += need;
    }
    w.step_tokens = static_cast<int>(positions.size());
    // Pages in random order, some never used; what is not written stays NaN.
    std::vector<int32_t> order(static_cast<size_t>(pages) + 3);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(seed));
    page_tables.assign(parts.size() * static_cast<size_t>(max_pages), -1);
    size_t next = 0;
    for (size_t s = 0; s < parts.size(); ++s)
      for (int p = 0; p * kPageRows < parts[s].before + parts[s].tokens; ++p)
        page_tables[s * static_cast<size_t>(max_pages) + static_cast<size_t>(p)] = order[next++];
    rows = static_cast<int64_t>(order.size()) * kPageRows;
    set_cache(kv_format);
    set_rope();
    batch.tokens = w.step_tokens;
    batch.sequences = static_cast<int>(parts.size());
    batch.positions = positions.data();
    batch.sequence_of = sequence_of.data();
    batch.page_tables = page_tables.data();
    batch.max_pages = max_pages;
    batch.spans = spans;
  }
  Scene(const Scene&) = delete;

  // The same with only some of the tokens: what a step of another chunking would hold.
  BatchView part_of(const AttentionSpan& span) const {
    BatchView b = batch;
    b.tokens = span.end;
    b.spans = {&span, 1};
    return b;
  }

  void fill_cache(Random& random) {
    std::vector<float> x(K::kLatent + K::kRope);
    for (size_t s = 0; s < parts.size(); ++s)
      for (int p = 0; p < parts[s].before + parts[s].tokens; ++p) {
        int64_t row = row_of(batch.page_table(static_cast<int>(s)), p);
        for (float& v : x) v = random.normal();
        if (kv.latent_format == KvFormat::f32 && numerics != Numerics::exact)
          for (float& v : x) v = round_bf16(v);  // as append_latent leaves them
        write_latent_row(kv, row, x.data());
        write_index_row(kv, row, x.data());
      }
  }

 private:
  void set_cache(KvFormat kv_format) {
    kv.latent_format = kv_format;
    kv.index_format = numerics == Numerics::exact  ? KvFormat::f32
                      : numerics == Numerics::bf16 ? KvFormat::bf16
                                                   : KvFormat::fp8;
    kv.latent_dim = K::kLatent, kv.rope_dim = K::kRope, kv.index_dim = K::kIndex;
    kv.latent_stride = latent_row_bytes(kv_format, K::kLatent, K::kRope);
    kv.index_stride = index_row_bytes(kv.index_format, K::kIndex);
    latent.assign(static_cast<size_t>(rows * kv.latent_stride), std::byte{0xFF});
    index.assign(static_cast<size_t>(rows * kv.index_stride), std::byte{0xFF});
    kv.latent = latent.data();
    kv.index = index.data();
  }
  void set_rope() {
    std::vector<float> f = rope_frequencies(K::kRope, 10000.0, nullptr);
    for (int64_t p = 0; p < w.context; ++p)
      for (float x : f) {
        cos.push_back(std::cos(static_cast<float>(p) * x));
        sin.push_back(std::sin(static_cast<float>(p) * x));
      }
    rope = {cos.data(), sin.data(), K::kRope, w.context};
  }
};

// Random picks of `topk` positions of each token, or all where there are no more.
inline Memory random_picks(const Scene& s, int topk, Random& random) {
  Memory picked(DType::i32, {s.batch.tokens, topk});
  for (int t = 0; t < s.batch.tokens; ++t) {
    std::vector<int32_t> all(static_cast<size_t>(s.positions[static_cast<size_t>(t)]) + 1);
    std::iota(all.begin(), all.end(), 0);
    for (size_t i = 0; i + 1 < all.size(); ++i)
      std::swap(all[i],
                all[i + static_cast<size_t>(random.below(static_cast<int>(all.size() - i)))]);
    all.resize(std::min(all.size(), static_cast<size_t>(topk)));
    std::sort(all.begin(), all.end());
    all.resize(static_cast<size_t>(topk), -1);
    std::copy(all.begin(), all.end(), picked.tensor.row<int32_t>(t));
  }
  return picked;
}

}  // namespace fathom
