// The attention half of the reference: caches, lightning indexer, both forms of MLA.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/cpu/reference_ops.h"
#include "kernels/cpu/rows.h"
#include "numerics/hadamard.h"
#include "numerics/rope.h"
#include "numerics/selection.h"

namespace fathom {
namespace {

constexpr float kIndexNormEps = 1e-6f;

// MLA: pairs (2i, 2i + 1). Each result rounded to `act`.
void rotate_interleaved(float* x, const float* cos, const float* sin, int dim, DType act) {
  for (int i = 0; i < dim / 2; ++i) {
    Pair p = rotate({x[2 * i], x[2 * i + 1]}, cos[i], sin[i]);
    x[2 * i] = rounded(act, p.a);
    x[2 * i + 1] = rounded(act, p.b);
  }
}

// Indexer: pairs (i, i + dim / 2).
void rotate_split_half(float* x, const float* cos, const float* sin, int dim, DType act) {
  for (int i = 0; i < dim / 2; ++i) {
    Pair p = rotate({x[i], x[i + dim / 2]}, cos[i], sin[i]);
    x[i] = rounded(act, p.a);
    x[i + dim / 2] = rounded(act, p.b);
  }
}

void rotate_hadamard(float* x, int n) {
  hadamard_rotate(x, n);
  for (int i = 0; i < n; ++i) x[i] = round_bf16(x[i]);
}

// Index keys of one layer, read back as float32; `scale` is 1 except for fp8 rows.
struct IndexKey {
  std::vector<float> value;
  float scale = 1.0f;

  void read(const KvView& kv, int64_t row) {
    value.resize(kv.index_dim);
    scale = read_index_row(kv, row, value.data());
  }
};

float load_index_q(Tensor q, int64_t t, int64_t i) {
  if (q.dtype == DType::fp8_e4m3)
    return fp8_to_float(static_cast<const uint8_t*>(q.data)[t * q.row_stride + i]);
  return q.dtype == DType::bf16 ? to_float(q.row<Bf16>(t)[i]) : q.row<float>(t)[i];
}

// Scores of token t against positions [0, position].
std::vector<float> scores_of(int t, Tensor q, Tensor head_weight, const KvView& kv,
                             const BatchView& batch) {
  int64_t heads = q.dims[1], dim = q.dims[2];
  std::vector<float> query(static_cast<size_t>(heads * dim));
  for (int64_t i = 0; i < heads * dim; ++i) query[i] = load_index_q(q, t, i);
  std::vector<float> scores(static_cast<size_t>(batch.positions[t]) + 1);
  IndexKey key;
  for (size_t s = 0; s < scores.size(); ++s) {
    key.read(kv, batch.cache_row(t, static_cast<int64_t>(s)));
    double sum = 0;
    for (int64_t h = 0; h < heads; ++h) {
      double product = 0;
      for (int64_t i = 0; i < dim; ++i)
        product += static_cast<double>(query[h * dim + i]) * key.value[i];
      sum += std::max(product, 0.0) * head_weight.row<float>(t)[h];
    }
    scores[s] = static_cast<float>(sum * key.scale);
  }
  return scores;
}

// Positions a token attends to: the picked ones, or all up to its own.
std::vector<int32_t> visible(Tensor picked, int t, const BatchView& batch) {
  std::vector<int32_t> out;
  if (picked.empty()) {
    out.resize(static_cast<size_t>(batch.positions[t]) + 1);
    std::iota(out.begin(), out.end(), 0);
  } else {
    const int32_t* row = picked.row<int32_t>(t);
    for (int64_t i = 0; i < picked.row_size() && row[i] >= 0; ++i) out.push_back(row[i]);
  }
  return out;
}

void softmax(std::vector<double>& x) {
  double top = *std::max_element(x.begin(), x.end()), sum = 0;
  for (double& v : x) sum += (v = std::exp(v - top));
  for (double& v : x) v /= sum;
}

template <class Body>
void for_spans(const BatchView& batch, AttentionForm form, const Body& body) {
  for (const AttentionSpan& span : batch.spans)
    if (span.form == form) body(span);
}

template <class Body>
void for_heads(ThreadPool& pool, int heads, const Body& body) {
  pool.parallel_dynamic(heads, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t h = begin; h < end; ++h) body(h);
  });
}

}  // namespace

void ReferenceOps::rope_query(Tensor q, const BatchView& batch, const RopeTable& rope) {
  int64_t heads = q.dims[1], dim = q.dims[2];
  std::vector<float> row(static_cast<size_t>(heads * dim));
  for (int t = 0; t < batch.tokens; ++t) {
    int64_t pos = batch.positions[t];
    load_row(q, t, row.data());
    for (int64_t h = 0; h < heads; ++h) {
      float* part = &row[h * dim + dim - rope.dim];
      rotate_interleaved(part, rope.cos_at(pos), rope.sin_at(pos), rope.dim, q.dtype);
    }
    for (int64_t i = 0; i < heads * dim; ++i) store(q, t, i, row[i]);
  }
}

void ReferenceOps::append_latent(const KvView& kv, Tensor kv_a, const float* gain, float eps,
                                 const BatchView& batch, const RopeTable& rope) {
  int latent = kv.latent_dim;
  std::vector<float> row(static_cast<size_t>(latent + kv.rope_dim));
  for (int t = 0; t < batch.tokens; ++t) {
    int64_t pos = batch.positions[t];
    load_row(kv_a, t, row.data());
    double square = 0;
    for (int i = 0; i < latent; ++i) square += static_cast<double>(row[i]) * row[i];
    double inverse = 1.0 / std::sqrt(square / latent + eps);
    for (int i = 0; i < latent; ++i)
      row[i] = rounded(kv_a.dtype, static_cast<float>(gain[i] * (row[i] * inverse)));
    rotate_interleaved(&row[latent], rope.cos_at(pos), rope.sin_at(pos), kv.rope_dim, kv_a.dtype);
    write_latent_row(kv, batch.cache_row(t, pos), row.data());
  }
}

void ReferenceOps::append_index_key(const KvView& kv, Tensor k, const LayerNormWeights& norm,
                                    const BatchView& batch, const RopeTable& rope) {
  int dim = kv.index_dim;
  std::vector<float> row(static_cast<size_t>(dim));
  for (int t = 0; t < batch.tokens; ++t) {
    int64_t pos = batch.positions[t];
    load_row(k, t, row.data());
    double mean = std::accumulate(row.begin(), row.end(), 0.0) / dim, variance = 0;
    for (float v : row) variance += (v - mean) * (v - mean);
    double inverse = 1.0 / std::sqrt(variance / dim + kIndexNormEps);
    for (int i = 0; i < dim; ++i)
      row[i] = rounded(
          k.dtype, static_cast<float>((row[i] - mean) * inverse * norm.weight[i] + norm.bias[i]));
    rotate_split_half(row.data(), rope.cos_at(pos), rope.sin_at(pos), rope.dim, k.dtype);
    if (kv.index_format == KvFormat::fp8) rotate_hadamard(row.data(), dim);
    write_index_row(kv, batch.cache_row(t, pos), row.data());
  }
}

void ReferenceOps::index_query(Tensor out, Tensor head_weight, Tensor q, const BatchView& batch,
                               const RopeTable& rope) {
  int heads = static_cast<int>(q.dims[1]), dim = static_cast<int>(q.dims[2]);
  float head_scale = 1.0f / std::sqrt(static_cast<float>(heads));
  float dim_scale = 1.0f / std::sqrt(static_cast<float>(dim));
  std::vector<float> row(static_cast<size_t>(heads) * dim);
  for (int t = 0; t < batch.tokens; ++t) {
    int64_t pos = batch.positions[t];
    load_row(q, t, row.data());
    for (int h = 0; h < heads; ++h) {
      float* x = &row[static_cast<size_t>(h) * dim];
      float& weight = head_weight.row<float>(t)[h];
      rotate_split_half(x, rope.cos_at(pos), rope.sin_at(pos), rope.dim, q.dtype);
      weight *= head_scale;
      if (out.dtype == DType::fp8_e4m3) {
        rotate_hadamard(x, dim);
        float amax = 0;
        for (int i = 0; i < dim; ++i) amax = std::fmax(amax, std::fabs(x[i]));
        float scale = group_scale(amax, workload_.ue8m0);
        uint8_t* code = static_cast<uint8_t*>(out.data) + t * out.row_stride + h * dim;
        for (int i = 0; i < dim; ++i) code[i] = quantise(x[i], scale);
        weight *= scale;
      } else {
        for (int i = 0; i < dim; ++i) store(out, t, h * dim + i, x[i]);
      }
      weight *= dim_scale;
    }
  }
}

void ReferenceOps::index_topk(Tensor picked, Tensor index_q, Tensor head_weight, const KvView& kv,
                              const BatchView& batch) {
  int64_t topk = picked.row_size();
  pool_.parallel_dynamic(batch.tokens, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      if (!batch.index_rows.has(static_cast<int>(t))) continue;
      int64_t candidates = int64_t{batch.positions[t]} + 1;
      std::vector<int32_t> order(static_cast<size_t>(candidates));
      std::iota(order.begin(), order.end(), 0);
      if (candidates > topk) {
        std::vector<float> score = scores_of(static_cast<int>(t), index_q, head_weight, kv, batch);
        std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
          uint32_t ka = order_key(score[a]), kb = order_key(score[b]);
          return ka != kb ? ka > kb : a < b;
        });
        order.resize(static_cast<size_t>(topk));
        std::sort(order.begin(), order.end());
      }
      int32_t* out = picked.row<int32_t>(t);
      std::fill(std::copy(order.begin(), order.end(), out), out + topk, -1);
    }
  });
}

void ReferenceOps::index_scores(Tensor scores, std::span<const int32_t> tokens, Tensor index_q,
                                Tensor head_weight, const KvView& kv, const BatchView& batch) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    std::vector<float> row = scores_of(tokens[i], index_q, head_weight, kv, batch);
    std::copy(row.begin(), row.end(), scores.row<float>(static_cast<int64_t>(i)));
  }
}

void ReferenceOps::attend_expanded(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked,
                                   const KvView& kv, const BatchView& batch, float scale) {
  const int width = up.nope + up.value, row_size = kv.latent_dim + kv.rope_dim;
  for_spans(batch, AttentionForm::expanded, [&](const AttentionSpan& span) {
    int64_t keys = int64_t{batch.positions[span.end - 1]} + 1;
    std::vector<float> latent(static_cast<size_t>(keys * row_size));
    for (int64_t s = 0; s < keys; ++s)
      read_latent_row(kv, batch.cache_row(span.begin, s), &latent[s * row_size]);
    for_heads(pool_, up.heads, [&](int64_t h) {
      // This head's keys and values, [keys, nope + value], rounded like any operator's result.
      std::vector<float> expanded(static_cast<size_t>(keys * width)), w(up.latent),
          row(q.row_size());
      for (int j = 0; j < width; ++j) {
        load_weight_row(up.kv_b, h * width + j, w.data());
        for (int64_t s = 0; s < keys; ++s) {
          double sum = 0;
          for (int c = 0; c < up.latent; ++c)
            sum += static_cast<double>(w[c]) * latent[s * row_size + c];
          expanded[s * width + j] = rounded(q.dtype, static_cast<float>(sum));
        }
      }
      for (int t = span.begin; t < span.end; ++t) {
        load_row(q, t, row.data());
        const float* query = &row[h * q.dims[2]];
        std::vector<int32_t> seen = visible(picked, t, batch);
        std::vector<double> p(seen.size());
        for (size_t i = 0; i < seen.size(); ++i) {
          for (int j = 0; j < up.nope; ++j)
            p[i] += static_cast<double>(query[j]) * expanded[seen[i] * width + j];
          for (int j = 0; j < kv.rope_dim; ++j)
            p[i] += static_cast<double>(query[up.nope + j]) *
                    latent[seen[i] * row_size + kv.latent_dim + j];
          p[i] *= scale;
        }
        softmax(p);
        for (int j = 0; j < up.value; ++j) {
          double sum = 0;
          for (size_t i = 0; i < seen.size(); ++i)
            sum += static_cast<double>(rounded(q.dtype, static_cast<float>(p[i]))) *
                   expanded[seen[i] * width + up.nope + j];
          store(out, t, h * up.value + j, static_cast<float>(sum));
        }
      }
    });
  });
}

void ReferenceOps::attend_absorbed(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked,
                                   const KvView& kv, const BatchView& batch, float scale) {
  const int width = up.nope + up.value, row_size = kv.latent_dim + kv.rope_dim;
  for_spans(batch, AttentionForm::absorbed, [&](const AttentionSpan& span) {
    for_heads(pool_, up.heads, [&](int64_t h) {
      std::vector<float> weight(static_cast<size_t>(width) * up.latent), row(q.row_size());
      for (int j = 0; j < width; ++j)
        load_weight_row(up.kv_b, h * width + j, &weight[static_cast<size_t>(j) * up.latent]);
      for (int t = span.begin; t < span.end; ++t) {
        load_row(q, t, row.data());
        const float* query = &row[h * q.dims[2]];
        std::vector<float> absorbed(up.latent);  // the query in latent space
        for (int c = 0; c < up.latent; ++c) {
          double sum = 0;
          for (int j = 0; j < up.nope; ++j)
            sum += static_cast<double>(query[j]) * weight[static_cast<size_t>(j) * up.latent + c];
          absorbed[c] = rounded(q.dtype, static_cast<float>(sum));
        }
        std::vector<int32_t> seen = visible(picked, t, batch);
        std::vector<float> latent(seen.size() * row_size);
        std::vector<double> p(seen.size());
        for (size_t i = 0; i < seen.size(); ++i) {
          float* key = &latent[i * row_size];
          read_latent_row(kv, batch.cache_row(t, seen[i]), key);
          for (int c = 0; c < up.latent; ++c) p[i] += static_cast<double>(absorbed[c]) * key[c];
          for (int j = 0; j < kv.rope_dim; ++j)
            p[i] += static_cast<double>(query[up.nope + j]) * key[kv.latent_dim + j];
          p[i] *= scale;
        }
        softmax(p);
        std::vector<double> mixed(up.latent);  // attention output in latent space
        for (size_t i = 0; i < seen.size(); ++i) {
          double share = rounded(q.dtype, static_cast<float>(p[i]));
          for (int c = 0; c < up.latent; ++c) mixed[c] += share * latent[i * row_size + c];
        }
        for (int j = 0; j < up.value; ++j) {
          const float* w = &weight[static_cast<size_t>(up.nope + j) * up.latent];
          double sum = 0;
          for (int c = 0; c < up.latent; ++c)
            sum += static_cast<double>(rounded(q.dtype, static_cast<float>(mixed[c]))) * w[c];
          store(out, t, h * up.value + j, static_cast<float>(sum));
        }
      }
    });
  });
}

}  // namespace fathom
