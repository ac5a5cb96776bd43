#include "selfcheck/compare.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "selfcheck/plain.h"
#include "selfcheck/rows.h"

namespace fathom {
namespace {

// The share of e4m3 codes that may differ by one step, because the values before rounding differ in
// the last bits of float32.
constexpr double kMovedCodes = 0.005;

uint32_t bits_at(const std::byte* p) {
  uint32_t u;
  std::memcpy(&u, p, sizeof(u));
  return u;
}

// e4m3 codes in the order of their values.
int code_order(uint8_t code) { return code & 0x80 ? -(code & 0x7F) : code & 0x7F; }

}  // namespace

void OpTally::add(double error, double bound) {
  ++values;
  double share = error == 0 ? 0 : error / bound;  // infinite where equality is asked
  if (!(share <= worst)) worst = std::isnan(share) ? INFINITY : share;
}

double OpTally::ratio() const {
  double border =
      static_cast<double>(moved) / std::max(1.0, kMovedCodes * static_cast<double>(codes));
  return std::max(worst, border);
}

std::vector<int32_t> plain_selection(std::span<const float> scores, int64_t topk) {
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
  });
  order.resize(std::min(order.size(), static_cast<size_t>(topk)));
  std::sort(order.begin(), order.end());
  return order;
}

CompareOps::CompareOps(Ops& tested, Numerics numerics, CompareLimits limits)
    : TraceOps(tested), numerics_(numerics), limits_(std::move(limits)) {}

StepInputs CompareOps::begin_step(const StepInputs& inputs) {
  tokens_.clear();
  for (int t = 0; t < inputs.live; ++t)
    if (limits_.positions.count(inputs.batch.positions[t])) tokens_.push_back(t);
  watched_layer_ = true;  // for the ops before the first layer
  return inner_.begin_step(inputs);
}

void CompareOps::enter_layer(int layer) {
  TraceOps::enter_layer(layer);
  watched_layer_ = limits_.layers.empty() || limits_.layers.count(layer) > 0;
}

// Reached only by ops that have no comparison of their own: those that have one do not pass it on
// to TraceOps. Such an op fails its check. index_scores is compared together with index_topk.
void CompareOps::after(OpKind kind, std::span<const Tensor>) {
  if (kind != OpKind::index_scores) at(kind).exact(false);
}

std::span<const int32_t> CompareOps::heavy() const {
  return std::span(tokens_).first(std::min(tokens_.size(), limits_.heavy_tokens));
}

void CompareOps::embed(Tensor hidden, const int32_t* ids, const QWeight& table) {
  inner_.embed(hidden, ids, table);
  OpTally& tally = at(OpKind::embed);
  for (int32_t t : tokens_) {
    OwnedTensor one(hidden, 1, hidden.dtype);
    reference_->embed(one.t, ids + t, table);
    tally.exact(row_values(hidden, t) == row_values(one.t, 0));
  }
}

// The reference is the result before its last rounding. The tested one may differ by half an ulp
// and by the error of float32 sums.
void CompareOps::compare_norm(OpTally& tally, Tensor tested, Tensor reference) {
  double relative = sum_error(tested.row_size()) + half_ulp(tested.dtype);
  for (int64_t i = 0; i < tested.rows(); ++i) {
    std::vector<float> a = row_values(tested, i), b = row_values(reference, i);
    for (size_t j = 0; j < a.size(); ++j)
      tally.add(std::fabs(double{a[j]} - b[j]), relative * std::fabs(b[j]) + 1e-37);
  }
}

void CompareOps::rms_norm(Tensor out, Tensor x, const float* gain, float eps) {
  if (!watching()) return inner_.rms_norm(out, x, gain, eps);
  OwnedTensor before = copy_rows(x, tokens_), want(before.t, before.t.rows(), DType::f32);
  inner_.rms_norm(out, x, gain, eps);
  reference_->rms_norm(want.t, before.t, gain, eps);
  compare_norm(at(OpKind::rms_norm), copy_rows(out, tokens_).t, want.t);
}

void CompareOps::add_rms_norm(Tensor normed, Tensor residual, Tensor update, const float* gain,
                              float eps) {
  if (!watching()) return inner_.add_rms_norm(normed, residual, update, gain, eps);
  OwnedTensor sum = copy_rows(residual, tokens_), change = copy_rows(update, tokens_);
  OwnedTensor want(sum.t, sum.t.rows(), DType::f32);
  inner_.add_rms_norm(normed, residual, update, gain, eps);
  reference_->add_rms_norm(want.t, sum.t, change.t, gain, eps);
  OpTally& tally = at(OpKind::add_rms_norm);
  // One addition, rounded once: the results must be equal.
  for (size_t i = 0; i < tokens_.size(); ++i)
    tally.exact(row_values(residual, tokens_[i]) == row_values(sum.t, static_cast<int64_t>(i)));
  compare_norm(tally, copy_rows(normed, tokens_).t, want.t);
}

// sum_error, and what the tensor cores of a GPU add to it: they align the terms of a sum to the
// greatest and cut off what lies below 13 (fp8) or 24 (bf16) bits.
double CompareOps::product_error(int64_t n, bool fp8) const {
  if (!limits_.tensor_cores) return sum_error(n);
  return sum_error(n) + (fp8 ? 0x1p-12 : 0x1p-21);
}

// Compares y = x W^T. Of a matrix larger than the budget it compares blocks of rows spread from the
// first to the last.
void CompareOps::compare_product(OpTally& tally, Tensor tested, const QWeight& w, Tensor x) {
  constexpr int64_t kRows = 32;
  int64_t blocks = (w.rows + kRows - 1) / kRows;
  int64_t compared = std::clamp<int64_t>(limits_.weight_budget / (kRows * w.cols), 2, blocks);
  std::vector<double> length(static_cast<size_t>(x.rows()));
  for (int64_t i = 0; i < x.rows(); ++i) length[static_cast<size_t>(i)] = norm_of(row_values(x, i));
  std::vector<float> weights(static_cast<size_t>(w.cols));
  const double relative = product_error(w.cols, w.is_fp8() && numerics_ == Numerics::fp8);
  for (int64_t b = 0; b < compared; ++b) {
    int64_t block = compared > 1 ? b * (blocks - 1) / (compared - 1) : 0;
    int64_t begin = block * kRows, end = std::min(begin + kRows, w.rows);
    Tensor shape(nullptr, DType::f32, {x.rows(), end - begin});
    OwnedTensor want(shape, x.rows(), DType::f32);
    reference_->linear(want.t, x, w.slice_rows(begin, end));
    for (int64_t r = begin; r < end; ++r) {
      load_weight_row(w, r, weights.data());
      double weight_length = norm_of(weights);
      for (int64_t i = 0; i < x.rows(); ++i) {
        double y = want.t.row<float>(i)[r - begin];
        double got =
            tested.dtype == DType::f32 ? tested.row<float>(i)[r] : to_float(tested.row<Bf16>(i)[r]);
        double bound = relative * length[static_cast<size_t>(i)] * weight_length +
                       half_ulp(tested.dtype) * std::fabs(y);
        tally.add(std::fabs(got - y), bound + 1e-37);
      }
    }
  }
}

void CompareOps::project(std::span<const Projection> projections, Tensor x) {
  if (!watching()) return inner_.project(projections, x);
  OwnedTensor in = copy_rows(x, tokens_);
  inner_.project(projections, x);
  for (const Projection& p : projections)
    compare_product(at(OpKind::project), copy_rows(p.out, tokens_).t, p.weight, in.t);
}

void CompareOps::logits(Tensor out, Tensor hidden, const QWeight& head) {
  inner_.logits(out, hidden, head);
  if (tokens_.empty() || out.rows() == 0) return;
  std::vector<int32_t> rows(std::min<size_t>(static_cast<size_t>(out.rows()), 4));
  std::iota(rows.begin(), rows.end(), 0);
  compare_product(at(OpKind::logits), copy_rows(out, rows).t, head, copy_rows(hidden, rows).t);
}

void CompareOps::gather_rows(Tensor out, Tensor x, std::span<const int32_t> rows) {
  inner_.gather_rows(out, x, rows);
  for (size_t i = 0; i < rows.size(); ++i)
    at(OpKind::gather_rows)
        .exact(row_values(out, static_cast<int64_t>(i)) == row_values(x, rows[i]));
}

// Both sides are rounded, so they may lie one ulp (two halves) apart; a pair's rotation errs
// relative to the pair, not to the element.
void CompareOps::compare_rotated(OpTally& tally, Tensor tested, Tensor reference,
                                 int64_t head_dim) {
  for (int64_t i = 0; i < tested.rows(); ++i) {
    std::vector<float> a = row_values(tested, i), b = row_values(reference, i);
    for (size_t h = 0; h < a.size(); h += static_cast<size_t>(head_dim)) {
      float top = 0;
      for (size_t j = h; j < h + static_cast<size_t>(head_dim); ++j)
        top = std::max(top, std::fabs(b[j]));
      for (size_t j = h; j < h + static_cast<size_t>(head_dim); ++j)
        tally.add(std::fabs(double{a[j]} - b[j]),
                  2 * half_ulp(tested.dtype) * std::fabs(b[j]) + 4 * kUnit * top + 1e-37);
    }
  }
}

void CompareOps::rope_query(Tensor q, const BatchView& batch, const RopeTable& rope) {
  if (!watching()) return inner_.rope_query(q, batch, rope);
  OwnedTensor want = copy_rows(q, tokens_);
  SubBatch sub(batch, tokens_);
  inner_.rope_query(q, batch, rope);
  reference_->rope_query(want.t, sub.view, rope);
  compare_rotated(at(OpKind::rope_query), copy_rows(q, tokens_).t, want.t, q.dims[2]);
}

void CompareOps::compare_codes(OpTally& tally, const uint8_t* tested, const uint8_t* reference,
                               int64_t n) {
  tally.codes += n;
  tally.values += n;
  for (int64_t i = 0; i < n; ++i) {
    int apart = std::abs(code_order(tested[i]) - code_order(reference[i]));
    if (apart > 1) tally.worst = INFINITY;
    tally.moved += apart == 1;
  }
}

void CompareOps::compare_latent_row(const std::byte* tested, const std::byte* reference,
                                    const KvView& kv) {
  OpTally& tally = at(OpKind::append_latent);
  int64_t latent = kv.latent_dim, plain = 0;
  if (kv.latent_format == KvFormat::fp8) {
    compare_codes(tally, reinterpret_cast<const uint8_t*>(tested),
                  reinterpret_cast<const uint8_t*>(reference), latent);
    int64_t scales = (latent + kFp8Block - 1) / kFp8Block;
    for (int64_t g = 0; g < scales; ++g)
      tally.exact(bits_at(tested + latent + 4 * g) == bits_at(reference + latent + 4 * g));
    plain = latent + 4 * scales;
  }
  // The parts that are not quantised are compared like rows of activations.
  DType type = kv.latent_format == KvFormat::f32 ? DType::f32 : DType::bf16;
  int64_t width = kv.rope_dim + (plain ? 0 : latent);
  auto view = [&](const std::byte* row) {
    return Tensor(const_cast<std::byte*>(row) + plain, type, {1, width});
  };
  Tensor a = view(tested), b = view(reference);
  if (!plain) {
    std::vector<float> x = row_values(a.columns(0, latent), 0),
                       y = row_values(b.columns(0, latent), 0);
    // If activations are narrower than the cache, values were rounded to them before the cache,
    // too.
    double ulp = half_ulp(numerics_ == Numerics::exact ? type : DType::bf16);
    for (int64_t i = 0; i < latent; ++i)
      tally.add(std::fabs(double{x[i]} - y[i]),
                (2 * ulp + sum_error(latent)) * std::fabs(y[i]) + 1e-37);
  }
  compare_rotated(tally, a.columns(width - kv.rope_dim, width),
                  b.columns(width - kv.rope_dim, width), kv.rope_dim);
}

void CompareOps::append_latent(const KvView& kv, Tensor kv_a, const float* gain, float eps,
                               const BatchView& batch, const RopeTable& rope) {
  if (!watching()) return inner_.append_latent(kv, kv_a, gain, eps, batch, rope);
  OwnedTensor in = copy_rows(kv_a, tokens_);
  inner_.append_latent(kv, kv_a, gain, eps, batch, rope);
  SubBatch sub(batch, tokens_);
  size_t bytes = static_cast<size_t>(kv.latent_stride);
  // The reference writes into the same rows; what was there is put back.
  std::vector<std::vector<std::byte>> kept;
  auto row_of_token = [&](size_t i) {
    return kv.latent_row(sub.view.cache_row(static_cast<int>(i), sub.positions[i]));
  };
  for (size_t i = 0; i < tokens_.size(); ++i)
    kept.emplace_back(row_of_token(i), row_of_token(i) + bytes);
  reference_->append_latent(kv, in.t, gain, eps, sub.view, rope);
  for (size_t i = 0; i < tokens_.size(); ++i) {
    compare_latent_row(kept[i].data(), row_of_token(i), kv);
    std::copy(kept[i].begin(), kept[i].end(), row_of_token(i));
  }
}

void CompareOps::compare_index_row(const std::byte* tested, const std::byte* reference,
                                   const KvView& kv) {
  OpTally& tally = at(OpKind::append_index_key);
  if (kv.index_format == KvFormat::fp8) {
    compare_codes(tally, reinterpret_cast<const uint8_t*>(tested),
                  reinterpret_cast<const uint8_t*>(reference), kv.index_dim);
    tally.exact(bits_at(tested + kv.index_dim) == bits_at(reference + kv.index_dim));
    return;
  }
  std::vector<float> a(static_cast<size_t>(kv.index_dim)), b(a.size());
  read_plain_row(tested, a.data(), kv.index_dim, kv.index_format);
  read_plain_row(reference, b.data(), kv.index_dim, kv.index_format);
  double ulp = half_ulp(kv.index_format == KvFormat::f32 ? DType::f32 : DType::bf16);
  double top = 0;
  for (float v : b) top = std::max(top, std::fabs(double{v}));
  // Values are also rounded before the rotation: an ulp of the pair there, and an ulp of the
  // element here.
  for (size_t i = 0; i < a.size(); ++i)
    tally.add(std::fabs(double{a[i]} - b[i]),
              2 * ulp * (std::fabs(b[i]) + top) + 2 * sum_error(kv.index_dim) * top + 1e-37);
}

void CompareOps::append_index_key(const KvView& kv, Tensor k, const LayerNormWeights& norm,
                                  const BatchView& batch, const RopeTable& rope) {
  if (!watching()) return inner_.append_index_key(kv, k, norm, batch, rope);
  OwnedTensor in = copy_rows(k, tokens_);
  inner_.append_index_key(kv, k, norm, batch, rope);
  SubBatch sub(batch, tokens_);
  // All bytes of a row: its values, then its scales.
  const int64_t values = kv.index_value_bytes(), scales = kv.index_stride - values;
  auto row_of_token = [&](size_t i) {
    return sub.view.cache_row(static_cast<int>(i), sub.positions[i]);
  };
  auto row_bytes = [&](size_t i) {
    const std::byte *v = kv.index_row(row_of_token(i)), *s = kv.index_scales(row_of_token(i));
    std::vector<std::byte> bytes(v, v + values);
    bytes.insert(bytes.end(), s, s + scales);
    return bytes;
  };
  std::vector<std::vector<std::byte>> kept;
  for (size_t i = 0; i < tokens_.size(); ++i) kept.push_back(row_bytes(i));
  reference_->append_index_key(kv, in.t, norm, sub.view, rope);
  for (size_t i = 0; i < tokens_.size(); ++i) {
    compare_index_row(kept[i].data(), row_bytes(i).data(), kv);
    std::copy_n(kept[i].begin(), values, kv.index_row(row_of_token(i)));
    std::copy_n(kept[i].begin() + values, scales, kv.index_scales(row_of_token(i)));
  }
}

}  // namespace fathom
