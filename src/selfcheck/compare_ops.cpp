// The second half of CompareOps: indexer, attention, experts.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "selfcheck/compare.h"
#include "selfcheck/plain.h"
#include "selfcheck/rows.h"
#include "selfcheck/synthetic.h"

namespace fathom {
namespace {

// Ops with several roundings inside (MLP, experts, attention) are compared row by row: length of
// the error over length of the result. Each inner value may round the other way when float32 sums
// differ; such errors are independent, so the row's relative error stays near one rounding of one
// value. exact: some hundred units of float32, for the exponentials. bf16: two roundings. fp8: a
// quarter of an e4m3 step, which is half of what leaving a quantisation out would cost.
double row_limit(Numerics n) {
  return n == Numerics::exact ? 512 * kUnit : n == Numerics::bf16 ? 0x1p-7 : 0x1p-6;
}

// One head of a [rows, heads, dim] tensor.
Tensor head_of(Tensor x, int64_t head, int64_t dim) {
  x.data = static_cast<std::byte*>(x.data) + head * dim * static_cast<int64_t>(size_of(x.dtype));
  x.rank = 3;
  x.dims = {x.dims[0], 1, dim, 1};
  return x;
}

}  // namespace

void CompareOps::index_query(Tensor out, Tensor head_weight, Tensor q, const BatchView& batch,
                             const RopeTable& rope) {
  if (!watching()) return inner_.index_query(out, head_weight, q, batch, rope);
  OwnedTensor in = copy_rows(q, tokens_), weight = copy_rows(head_weight, tokens_);
  inner_.index_query(out, head_weight, q, batch, rope);
  SubBatch sub(batch, tokens_);
  OwnedTensor want(out, static_cast<int64_t>(tokens_.size()), out.dtype);
  reference_->index_query(want.t, weight.t, in.t, sub.view, rope);
  OpTally& tally = at(OpKind::index_query);
  OwnedTensor got = copy_rows(out, tokens_), got_weight = copy_rows(head_weight, tokens_);
  if (out.dtype == DType::fp8_e4m3)
    compare_codes(tally, static_cast<const uint8_t*>(got.t.data),
                  static_cast<const uint8_t*>(want.t.data), got.t.size());
  else
    compare_rotated(tally, got.t, want.t, out.dims[2]);
  // The head weight is a product of a few float32 values.
  for (int64_t i = 0; i < weight.t.rows(); ++i)
    for (int64_t h = 0; h < weight.t.row_size(); ++h) {
      double a = got_weight.t.row<float>(i)[h], b = weight.t.row<float>(i)[h];
      tally.add(std::fabs(a - b), 8 * kUnit * std::fabs(b) + 1e-37);
    }
}

// Compares the picks of index_topk with an independent selection from the kernels' own scores, and
// those scores with the reference.
void CompareOps::compare_scores(int32_t token, Tensor picked, Tensor index_q, Tensor head_weight,
                                const KvView& kv, const BatchView& batch) {
  int64_t count = int64_t{batch.positions[token]} + 1, heads = index_q.dims[1], dim = kv.index_dim;
  std::vector<float> tested(static_cast<size_t>(count)), want(tested.size());
  auto score = [&](Ops& ops, std::vector<float>& to) {
    Tensor row(to.data(), DType::f32, {1, count});
    ops.index_scores(row, {&token, 1}, index_q, head_weight, kv, batch);
  };
  score(inner_, tested);
  score(*reference_, want);

  // Bound: two nested sums, over the head's values and over the heads, of magnitudes at most the
  // product of the lengths.
  double magnitude = 0;
  std::vector<float> q(static_cast<size_t>(dim));
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < dim; ++i)
      q[static_cast<size_t>(i)] = index_value(index_q, token, h * dim + i);
    magnitude += norm_of(q) * std::fabs(head_weight.row<float>(token)[h]);
  }
  for (int64_t s = 0; s < count; ++s) {
    std::vector<double> key = read_index_key(kv, batch.cache_row(token, s));
    double length = std::sqrt(std::inner_product(key.begin(), key.end(), key.begin(), 0.0));
    size_t i = static_cast<size_t>(s);
    at(OpKind::index_scores)
        .add(std::fabs(double{tested[i]} - want[i]),
             (product_error(dim, index_q.dtype == DType::fp8_e4m3) + sum_error(heads)) * magnitude *
                     length +
                 1e-37);
  }

  std::vector<int32_t> expected = plain_selection(tested, picked.row_size());
  expected.resize(static_cast<size_t>(picked.row_size()), -1);
  const int32_t* got = picked.row<int32_t>(token);
  at(OpKind::index_topk).exact(std::equal(expected.begin(), expected.end(), got));
}

void CompareOps::index_topk(Tensor picked, Tensor index_q, Tensor head_weight, const KvView& kv,
                            const BatchView& batch) {
  inner_.index_topk(picked, index_q, head_weight, kv, batch);
  if (!watching()) return;
  for (int32_t t : tokens_) compare_scores(t, picked, index_q, head_weight, kv, batch);
}

// Relative error of whole rows; see row_limit.
void CompareOps::compare_rows(OpTally& tally, Tensor tested, Tensor reference) {
  double limit = row_limit(numerics_) + half_ulp(tested.dtype);
  // fp8 sums of 13 bits change one code in a hundred, still less than a missing quantisation would.
  if (limits_.tensor_cores && numerics_ == Numerics::fp8) limit *= 1.5;
  for (int64_t i = 0; i < tested.rows(); ++i) {
    std::vector<float> a = row_values(tested, i), b = row_values(reference, i);
    for (size_t j = 0; j < a.size(); ++j) a[j] -= b[j];
    tally.add(norm_of(a), limit * norm_of(b) + 1e-37);
  }
}

void CompareOps::attend(OpKind kind, Tensor out, Tensor q, const KvUpWeights& up, Tensor picked,
                        const KvView& kv, const BatchView& batch, float scale) {
  AttentionForm form =
      kind == OpKind::attend_expanded ? AttentionForm::expanded : AttentionForm::absorbed;
  std::vector<int32_t> tokens;
  for (const AttentionSpan& span : batch.spans)
    for (int32_t t : tokens_)
      if (span.form == form && span.begin <= t && t < span.end) tokens.push_back(t);
  if (tokens.empty()) return;
  SubBatch sub(batch, tokens);
  OwnedTensor query = copy_rows(q, tokens), got = copy_rows(out, tokens),
              seen = copy_rows(picked, tokens);
  // Heads are alike; in a large model the first, the middle and the last stand for all.
  std::vector<int> heads;
  if (up.heads <= 8)
    for (int h = 0; h < up.heads; ++h) heads.push_back(h);
  else
    heads = {0, up.heads / 2, up.heads - 1};
  int64_t rows = static_cast<int64_t>(tokens.size()), width = up.nope + up.value;
  OwnedTensor want(Tensor(nullptr, DType::f32, {rows, up.value}), rows, DType::f32);
  for (int h : heads) {
    KvUpWeights one = up;
    one.heads = 1;
    one.kv_b = up.kv_b.slice_rows(h * width, (h + 1) * width);
    Tensor query_h = head_of(query.t, h, q.dims[2]);
    if (form == AttentionForm::expanded)
      reference_->attend_expanded(want.t, query_h, one, seen.t, kv, sub.view, scale);
    else
      reference_->attend_absorbed(want.t, query_h, one, seen.t, kv, sub.view, scale);
    compare_rows(at(kind), got.t.columns(int64_t{h} * up.value, int64_t{h + 1} * up.value), want.t);
  }
}

void CompareOps::attend_expanded(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked,
                                 const KvView& kv, const BatchView& batch, float scale) {
  inner_.attend_expanded(out, q, up, picked, kv, batch, scale);
  if (watching()) attend(OpKind::attend_expanded, out, q, up, picked, kv, batch, scale);
}

void CompareOps::attend_absorbed(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked,
                                 const KvView& kv, const BatchView& batch, float scale) {
  inner_.attend_absorbed(out, q, up, picked, kv, batch, scale);
  if (watching()) attend(OpKind::attend_absorbed, out, q, up, picked, kv, batch, scale);
}

void CompareOps::route(Tensor ids, Tensor weights, Tensor x, const QWeight& gate, const float* bias,
                       const RouterShape& shape) {
  inner_.route(ids, weights, x, gate, bias, shape);
  if (!watching()) return;
  OwnedTensor in = copy_rows(x, tokens_), got_ids = copy_rows(ids, tokens_),
              got_weights = copy_rows(weights, tokens_);
  OwnedTensor want_ids(ids, in.t.rows(), ids.dtype), want_weights(weights, in.t.rows(), DType::f32);
  reference_->route(want_ids.t, want_weights.t, in.t, gate, bias, shape);
  OpTally& tally = at(OpKind::route);
  double gate_length = longest_row(gate);
  for (int64_t i = 0; i < in.t.rows(); ++i) {
    // A sigmoid's slope is at most 1/4, but a weight is relative: an error of the logit is the
    // relative error of its score, once more through the sum of the chosen.
    double logit_error =
        product_error(gate.cols, gate.is_fp8()) * norm_of(row_values(in.t, i)) * gate_length;
    const int32_t *a = got_ids.t.row<int32_t>(i), *b = want_ids.t.row<int32_t>(i);
    bool same = std::equal(a, a + shape.per_token, b);
    if (!same) {
      PlainRouting plain = plain_routing(router_logits(gate, row_values(in.t, i)), bias, shape);
      tally.exact(plain.margin <= 2 * logit_error + 4 * kUnit);  // either choice is right
      continue;
    }
    for (int k = 0; k < shape.per_token; ++k) {
      double v = want_weights.t.row<float>(i)[k];
      tally.add(std::fabs(got_weights.t.row<float>(i)[k] - v),
                (2 * logit_error + 32 * kUnit) * std::fabs(v) + 1e-37);
    }
  }
}

void CompareOps::mlp(Tensor out, Tensor x, const MlpWeights& w) {
  inner_.mlp(out, x, w);
  if (!watching()) return;
  OwnedTensor in = copy_rows(x, heavy()), want(out, in.t.rows(), DType::f32);
  reference_->mlp(want.t, in.t, w);
  compare_rows(at(OpKind::mlp), copy_rows(out, heavy()).t, want.t);
}

void CompareOps::moe(Tensor out, Tensor x, Tensor ids, Tensor weights,
                     std::span<const MlpWeights> experts, const MlpWeights* shared) {
  inner_.moe(out, x, ids, weights, experts, shared);
  if (!watching()) return;
  OwnedTensor in = copy_rows(x, heavy()), chosen = copy_rows(ids, heavy()),
              share = copy_rows(weights, heavy()), want(out, in.t.rows(), DType::f32);
  reference_->moe(want.t, in.t, chosen.t, share.t, experts, shared);
  compare_rows(at(OpKind::moe), copy_rows(out, heavy()).t, want.t);
}

}  // namespace fathom
