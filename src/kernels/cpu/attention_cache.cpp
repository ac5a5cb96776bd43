// Rotations, cache entries and indexer queries: short loops over single rows, tokens divided among
// threads. Same arithmetic as the reference but for the order of the float64 sums of the norms.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/attention_ops.h"
#include "kernels/cpu/rows.h"
#include "numerics/hadamard.h"
#include "numerics/rope.h"

namespace fathom {
namespace {

using K = KernelDims;
constexpr float kIndexNormEps = 1e-6f;
constexpr int kTokenGrain = 8;
constexpr int kLanes = 8;  // partial sums side by side, so that additions need not wait

// MLA: pairs (2i, 2i + 1).
void rotate_interleaved(float* x, const float* cos, const float* sin, int dim) {
  for (int i = 0; i < dim / 2; ++i) {
    Pair p = rotate({x[2 * i], x[2 * i + 1]}, cos[i], sin[i]);
    x[2 * i] = p.a;
    x[2 * i + 1] = p.b;
  }
}

// Indexer: pairs (i, i + dim / 2).
void rotate_split_half(float* x, const float* cos, const float* sin, int dim) {
  for (int i = 0; i < dim / 2; ++i) {
    Pair p = rotate({x[i], x[i + dim / 2]}, cos[i], sin[i]);
    x[i] = p.a;
    x[i + dim / 2] = p.b;
  }
}

template <class Term>
double sum_of(int n, const Term& term) {
  double lane[kLanes] = {};
  for (int i = 0; i < n; i += kLanes)
    for (int j = 0; j < kLanes; ++j) lane[j] += term(i + j);
  double sum = 0;
  for (double v : lane) sum += v;
  return sum;
}

// The rotation of the fp8 indexer, and its group's scale.
float rotate_hadamard(float* x, bool ue8m0) {
  hadamard_rotate(x, K::kIndex);
  float amax = 0;
  for (int i = 0; i < K::kIndex; ++i) {
    x[i] = round_bf16(x[i]);
    amax = std::max(amax, std::fabs(x[i]));
  }
  return group_scale(amax, ue8m0);
}

}  // namespace

// n values from element `at` of row t on; n a multiple of 16.
void AttentionOps::load_values(Tensor x, int64_t t, int64_t at, int n, float* out) const {
  if (x.dtype == DType::f32)
    std::memcpy(out, x.row<float>(t) + at, static_cast<size_t>(n) * sizeof(float));
  else
    attention_.to_f32(&x.row<Bf16>(t)[at].bits, n, out);
}

void AttentionOps::store_values(Tensor x, int64_t t, int64_t at, int n, const float* values) const {
  if (x.dtype == DType::f32)
    std::memcpy(x.row<float>(t) + at, values, static_cast<size_t>(n) * sizeof(float));
  else
    attention_.round(values, n, &x.row<Bf16>(t)[at].bits);
}

// Rounds to the precision of activations.
void AttentionOps::round_values(float* x, int n) const {
  if (exact_) return;
  uint16_t rounded[K::kRow];
  attention_.round(x, n, rounded);
  attention_.to_f32(rounded, n, x);
}

// Writes a cache row of bf16 or float32 values.
void AttentionOps::write_values(std::byte* row, const float* x, int n, KvFormat format) const {
  if (format == KvFormat::f32)
    std::memcpy(row, x, static_cast<size_t>(n) * sizeof(float));
  else
    attention_.round(x, n, reinterpret_cast<uint16_t*>(row));
}

void AttentionOps::rope_query(Tensor q, const BatchView& batch, const RopeTable& rope) {
  if (rope.dim != K::kRope) return ReferenceOps::rope_query(q, batch, rope);
  const int64_t heads = q.dims[1], dim = q.dims[2];
  pool_.parallel_for(batch.tokens, kTokenGrain, [&](int64_t begin, int64_t end, int) {
    float part[K::kRope];
    for (int64_t t = begin; t < end; ++t)
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t at = h * dim + dim - K::kRope, pos = batch.positions[t];
        load_values(q, t, at, K::kRope, part);
        rotate_interleaved(part, rope.cos_at(pos), rope.sin_at(pos), K::kRope);
        store_values(q, t, at, K::kRope, part);
      }
  });
}

void AttentionOps::append_latent(const KvView& kv, Tensor kv_a, const float* gain, float eps,
                                 const BatchView& batch, const RopeTable& rope) {
  if (kv.latent_dim != K::kLatent || kv.rope_dim != K::kRope)
    return ReferenceOps::append_latent(kv, kv_a, gain, eps, batch, rope);
  pool_.parallel_for(batch.tokens, kTokenGrain, [&](int64_t begin, int64_t end, int) {
    float row[K::kRow];
    for (int64_t t = begin; t < end; ++t) {
      const int64_t pos = batch.positions[t];
      load_values(kv_a, t, 0, K::kRow, row);
      double square =
          sum_of(K::kLatent, [&](int i) { return static_cast<double>(row[i]) * row[i]; });
      double inverse = 1.0 / std::sqrt(square / K::kLatent + eps);
      for (int i = 0; i < K::kLatent; ++i)
        row[i] = static_cast<float>(gain[i] * (row[i] * inverse));
      rotate_interleaved(row + K::kLatent, rope.cos_at(pos), rope.sin_at(pos), K::kRope);
      round_values(row, K::kRow);
      const int64_t cache_row = batch.cache_row(static_cast<int>(t), pos);
      if (kv.latent_format == KvFormat::fp8)
        write_latent_row(kv, cache_row, row);
      else
        write_values(kv.latent_row(cache_row), row, K::kRow, kv.latent_format);
    }
  });
}

void AttentionOps::append_index_key(const KvView& kv, Tensor k, const LayerNormWeights& norm,
                                    const BatchView& batch, const RopeTable& rope) {
  if (kv.index_dim != K::kIndex) return ReferenceOps::append_index_key(kv, k, norm, batch, rope);
  pool_.parallel_for(batch.tokens, kTokenGrain, [&](int64_t begin, int64_t end, int) {
    float x[K::kIndex];
    for (int64_t t = begin; t < end; ++t) {
      const int64_t pos = batch.positions[t];
      load_values(k, t, 0, K::kIndex, x);
      double mean = sum_of(K::kIndex, [&](int i) { return double{x[i]}; }) / K::kIndex;
      double variance = sum_of(K::kIndex, [&](int i) { return (x[i] - mean) * (x[i] - mean); });
      double inverse = 1.0 / std::sqrt(variance / K::kIndex + kIndexNormEps);
      for (int i = 0; i < K::kIndex; ++i)
        x[i] = static_cast<float>((x[i] - mean) * inverse * norm.weight[i] + norm.bias[i]);
      round_values(x, K::kIndex);
      rotate_split_half(x, rope.cos_at(pos), rope.sin_at(pos), rope.dim);
      round_values(x, rope.dim);
      const int64_t row = batch.cache_row(static_cast<int>(t), pos);
      if (kv.index_format == KvFormat::fp8) {
        rotate_hadamard(x, kv.ue8m0);
        write_index_row(kv, row, x);
      } else {
        write_values(kv.index_row(row), x, K::kIndex, kv.index_format);
      }
    }
  });
}

void AttentionOps::index_query(Tensor out, Tensor head_weight, Tensor q, const BatchView& batch,
                               const RopeTable& rope) {
  if (q.dims[2] != K::kIndex || rope.dim != K::kRope)
    return ReferenceOps::index_query(out, head_weight, q, batch, rope);
  const int64_t heads = q.dims[1];
  const float head_scale = 1.0f / std::sqrt(static_cast<float>(heads));
  const float dim_scale = 1.0f / std::sqrt(static_cast<float>(K::kIndex));
  pool_.parallel_for(batch.tokens, kTokenGrain, [&](int64_t begin, int64_t end, int) {
    float x[K::kIndex];
    for (int64_t t = begin; t < end; ++t) {
      const int64_t pos = batch.positions[t];
      for (int64_t h = 0; h < heads; ++h) {
        float& weight = head_weight.row<float>(t)[h];
        weight *= head_scale;
        load_values(q, t, h * K::kIndex, K::kIndex, x);
        rotate_split_half(x, rope.cos_at(pos), rope.sin_at(pos), rope.dim);
        round_values(x, rope.dim);
        if (out.dtype == DType::fp8_e4m3) {
          float scale = rotate_hadamard(x, workload_.ue8m0);
          uint8_t* code = static_cast<uint8_t*>(out.data) + t * out.row_stride + h * K::kIndex;
          for (int i = 0; i < K::kIndex; ++i) code[i] = quantise(x[i], scale);
          weight *= scale;
        } else {
          store_values(out, t, h * K::kIndex, K::kIndex, x);
        }
        weight *= dim_scale;
      }
    }
  });
}

}  // namespace fathom
