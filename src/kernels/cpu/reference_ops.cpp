#include "kernels/cpu/reference_ops.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/rows.h"
#include "kernels/cpu_ops.h"

namespace fathom {
namespace {

double dot(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

// x [rows, K] as float32; quantised if an FP8 weight in fp8 numerics follows.
std::vector<float> load_inputs(Tensor x, bool quantised, bool ue8m0) {
  int64_t k = x.row_size();
  std::vector<float> out(static_cast<size_t>(x.rows() * k));
  for (int64_t t = 0; t < x.rows(); ++t) {
    load_row(x, t, &out[t * k]);
    if (quantised) fake_quantise(&out[t * k], k, ue8m0);
  }
  return out;
}

void normalise_row(const float* x, int64_t n, const float* gain, float eps, Tensor out,
                   int64_t row) {
  double square = dot(x, x, n) / static_cast<double>(n);
  double inverse = 1.0 / std::sqrt(square + eps);
  for (int64_t i = 0; i < n; ++i)
    store(out, row, i, static_cast<float>(gain[i] * (x[i] * inverse)));
}

}  // namespace

ReferenceOps::ReferenceOps(Numerics numerics, const Workload& workload, ThreadPool& pool)
    : numerics_(numerics), workload_(workload), pool_(pool) {}

std::string ReferenceOps::describe() const {
  return fmt::format("cpu, reference kernels (float64 sums), {} thread{}", pool_.size(),
                     pool_.size() == 1 ? "" : "s");
}

void ReferenceOps::embed(Tensor hidden, const int32_t* ids, const QWeight& table) {
  for (int64_t t = 0; t < hidden.rows(); ++t) {
    FATHOM_CHECK(ids[t] >= 0 && ids[t] < table.rows, "token {} of a vocabulary of {}", ids[t],
                 table.rows);
    for (int64_t i = 0; i < table.cols; ++i) store(hidden, t, i, weight_at(table, ids[t], i));
  }
}

void ReferenceOps::rms_norm(Tensor out, Tensor x, const float* gain, float eps) {
  pool_.parallel_for(x.rows(), 1, [&](int64_t begin, int64_t end, int) {
    std::vector<float> row(static_cast<size_t>(x.row_size()));
    for (int64_t t = begin; t < end; ++t) {
      load_row(x, t, row.data());
      normalise_row(row.data(), x.row_size(), gain, eps, out, t);
    }
  });
}

void ReferenceOps::add_rms_norm(Tensor normed, Tensor residual, Tensor update, const float* gain,
                                float eps) {
  int64_t n = residual.row_size();
  pool_.parallel_for(residual.rows(), 1, [&](int64_t begin, int64_t end, int) {
    std::vector<float> row(static_cast<size_t>(n)), add(static_cast<size_t>(n));
    for (int64_t t = begin; t < end; ++t) {
      load_row(residual, t, row.data());
      load_row(update, t, add.data());
      for (int64_t i = 0; i < n; ++i) {
        row[i] = rounded(residual.dtype, row[i] + add[i]);
        store(residual, t, i, row[i]);
      }
      normalise_row(row.data(), n, gain, eps, normed, t);
    }
  });
}

void ReferenceOps::project(std::span<const Projection> projections, Tensor x) {
  int64_t k = x.row_size();
  for (const Projection& p : projections) {
    FATHOM_CHECK(p.weight.cols == k && p.weight.rows == p.out.row_size(),
                 "weight [{}, {}] between inputs of {} and outputs of {}", p.weight.rows,
                 p.weight.cols, k, p.out.row_size());
    std::vector<float> in =
        load_inputs(x, numerics_ == Numerics::fp8 && p.weight.is_fp8(), workload_.ue8m0);
    pool_.parallel_for(p.weight.rows, 8, [&](int64_t begin, int64_t end, int) {
      std::vector<float> w(static_cast<size_t>(k));
      for (int64_t n = begin; n < end; ++n) {
        load_weight_row(p.weight, n, w.data());
        for (int64_t t = 0; t < x.rows(); ++t)
          store(p.out, t, n, static_cast<float>(dot(&in[t * k], w.data(), k)));
      }
    });
  }
}

void ReferenceOps::route(Tensor ids, Tensor weights, Tensor x, const QWeight& gate,
                         const float* bias, const RouterShape& shape) {
  std::vector<float> scores(static_cast<size_t>(x.rows() * shape.experts));
  Tensor logit(scores.data(), DType::f32, {x.rows(), shape.experts});
  linear(logit, x, gate);
  std::vector<float> scratch(static_cast<size_t>(shape.experts));
  for (int64_t t = 0; t < x.rows(); ++t)
    route_token(shape, logit.row<float>(t), bias, scratch.data(), ids.row<int32_t>(t),
                weights.row<float>(t));
}

void ReferenceOps::mlp(Tensor out, Tensor x, const MlpWeights& w) {
  if (w.empty()) return fill_zero(out);
  int64_t inter = w.gate.rows;
  std::vector<float> g(static_cast<size_t>(x.rows() * inter)), u(g.size());
  Tensor gate(g.data(), DType::f32, {x.rows(), inter}), up(u.data(), DType::f32, {x.rows(), inter});
  const Projection both[] = {{gate, w.gate}, {up, w.up}};
  project(both, x);
  std::vector<std::byte> middle(g.size() * size_of(x.dtype));
  Tensor act(middle.data(), x.dtype, {x.rows(), inter});
  for (int64_t t = 0; t < x.rows(); ++t)
    for (int64_t i = 0; i < inter; ++i) {
      double a = rounded(x.dtype, gate.row<float>(t)[i]);
      float b = rounded(x.dtype, up.row<float>(t)[i]);
      store(act, t, i, static_cast<float>(a / (1.0 + std::exp(-a)) * b));
    }
  linear(out, act, w.down);
}

void ReferenceOps::moe(Tensor out, Tensor x, Tensor ids, Tensor weights,
                       std::span<const MlpWeights> experts, const MlpWeights* shared) {
  int64_t n = x.row_size(), k = ids.row_size();
  std::vector<double> sum(static_cast<size_t>(x.rows() * n), 0.0);
  for (size_t e = 0; e < experts.size(); ++e) {
    if (experts[e].empty()) continue;
    std::vector<int32_t> tokens;
    std::vector<float> share;
    for (int64_t t = 0; t < x.rows(); ++t)
      for (int64_t j = 0; j < k; ++j)
        if (ids.row<int32_t>(t)[j] == static_cast<int32_t>(e)) {
          tokens.push_back(static_cast<int32_t>(t));
          share.push_back(weights.row<float>(t)[j]);
        }
    if (tokens.empty()) continue;
    int64_t rows = static_cast<int64_t>(tokens.size());
    std::vector<std::byte> in(static_cast<size_t>(rows * n) * size_of(x.dtype)), res(in.size());
    Tensor gathered(in.data(), x.dtype, {rows, n}), result(res.data(), x.dtype, {rows, n});
    gather_rows(gathered, x, tokens);
    mlp(result, gathered, experts[e]);
    std::vector<float> row(static_cast<size_t>(n));
    for (int64_t i = 0; i < rows; ++i) {
      load_row(result, i, row.data());
      for (int64_t c = 0; c < n; ++c)
        sum[tokens[i] * n + c] += static_cast<double>(row[c]) * share[i];
    }
  }
  std::vector<std::byte> memory(static_cast<size_t>(x.rows() * n) * size_of(x.dtype));
  Tensor common(memory.data(), x.dtype, {x.rows(), n});
  if (shared) mlp(common, x, *shared);
  std::vector<float> row(static_cast<size_t>(n), 0.0f);
  for (int64_t t = 0; t < x.rows(); ++t) {
    if (shared) load_row(common, t, row.data());
    for (int64_t c = 0; c < n; ++c) store(out, t, c, static_cast<float>(sum[t * n + c] + row[c]));
  }
}

void ReferenceOps::gather_rows(Tensor out, Tensor x, std::span<const int32_t> rows) {
  FATHOM_CHECK(out.dtype == x.dtype, "rows of {} gathered as {}", name_of(x.dtype),
               name_of(out.dtype));
  int64_t size = static_cast<int64_t>(size_of(x.dtype));
  for (size_t i = 0; i < rows.size(); ++i)
    std::memcpy(static_cast<char*>(out.data) + static_cast<int64_t>(i) * out.row_stride * size,
                static_cast<const char*>(x.data) + rows[i] * x.row_stride * size,
                static_cast<size_t>(x.row_size() * size));
}

void ReferenceOps::logits(Tensor out, Tensor hidden, const QWeight& head) {
  linear(out, hidden, head);
}

std::unique_ptr<Ops> make_reference_ops(Numerics numerics, const Workload& workload,
                                        ThreadPool& pool) {
  return std::make_unique<ReferenceOps>(numerics, workload, pool);
}

}  // namespace fathom
