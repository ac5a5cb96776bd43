#include "selfcheck/synthetic.h"

#include <cmath>
#include <numeric>

namespace fathom {
namespace {

EvalOptions small_steps(EvalOptions e, int64_t context) {
  e.compute.step_tokens = 16;
  e.compute.context = context;
  return e;
}

KvShape one_layer(const Config& config, Numerics numerics) {
  KvShape shape = kv_shape(config, numerics, std::nullopt, false);
  shape.layers = 1;
  return shape;
}

}  // namespace

Stage::Stage(const CheckContext& c, const Config& config, Numerics numerics, int64_t context,
             std::vector<int32_t> positions)
    : numerics_(numerics),
      rig_(config, c.weights, {small_steps(c.host_eval(numerics), context), std::nullopt}),
      pool_(one_layer(config, numerics), static_cast<int>(pages_for(context))),
      pages_(static_cast<size_t>(pages_for(context))),
      positions_(std::move(positions)),
      sequences_(positions_.size(), 0) {
  std::iota(pages_.begin(), pages_.end(), 0);
  int n = static_cast<int>(positions_.size());
  for (int i = 0; i < n; ++i) spans_.push_back({i, i + 1, 0, AttentionForm::absorbed});
  batch_.tokens = n;
  batch_.sequences = 1;
  batch_.positions = positions_.data();
  batch_.sequence_of = sequences_.data();
  batch_.page_tables = pages_.data();
  batch_.max_pages = static_cast<int>(pages_.size());
  batch_.spans = spans_;
  // The rotation table is recorded from the model itself, so one token has to be computed first.
  rig_.run(std::span(c.ids).first(1), {1}, 1, {});
}

RopeTable Stage::rope() const {
  const Record& r = rig_.record();
  int dim = pool_.shape().rope;
  return {r.cos.data(), r.sin.data(), dim, static_cast<int64_t>(r.cos.size()) / (dim / 2)};
}

OwnedTensor Stage::zeros(DType dtype, std::initializer_list<int64_t> shape) const {
  Tensor like(nullptr, dtype, shape);
  return OwnedTensor(like, like.rows(), dtype);
}

OwnedTensor Stage::random(DType dtype, std::initializer_list<int64_t> shape) {
  OwnedTensor x = zeros(dtype, shape);
  for (int64_t r = 0; r < x.t.rows(); ++r)
    for (int64_t i = 0; i < x.t.row_size(); ++i) set_index_value(x.t, r, i, values_.value());
  return x;
}

void Stage::write_index_key(int64_t position, std::span<const float> values) {
  write_index_row(kv(), batch_.cache_row(0, position), values.data());
}

float index_value(Tensor q, int64_t row, int64_t i) {
  if (q.dtype == DType::fp8_e4m3)
    return fp8_to_float(static_cast<const uint8_t*>(q.data)[row * q.row_stride + i]);
  return q.dtype == DType::bf16 ? to_float(q.row<Bf16>(row)[i]) : q.row<float>(row)[i];
}

void set_index_value(Tensor q, int64_t row, int64_t i, float value) {
  if (q.dtype == DType::fp8_e4m3)
    static_cast<uint8_t*>(q.data)[row * q.row_stride + i] = float_to_fp8(value);
  else
    store(q, row, i, value);
}

std::vector<double> read_index_key(const KvView& kv, int64_t row) {
  std::vector<float> key(static_cast<size_t>(kv.index_dim));
  const float scale = read_index_row(kv, row, key.data());
  for (float& v : key) v *= scale;
  return {key.begin(), key.end()};
}

double relative_error(std::span<const double> a, std::span<const double> b) {
  double error = 0, length = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    length += b[i] * b[i];
  }
  double e = std::sqrt(error / std::max(length, 1e-300));
  return std::isnan(e) ? INFINITY : e;
}

}  // namespace fathom
