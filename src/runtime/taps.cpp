#include "runtime/taps.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/rows.h"

namespace fathom {

TapOps::TapOps(Ops& inner, std::vector<int64_t> rows, int64_t context)
    : TraceOps(inner), rows_(std::move(rows)), context_(context) {}

void TapOps::begin_step(int64_t first_position, int tokens) {
  hits_.clear();
  for (size_t r = 0; r < rows_.size(); ++r)
    if (rows_[r] >= first_position && rows_[r] < first_position + tokens)
      hits_.push_back({r, static_cast<int32_t>(rows_[r] - first_position)});
}

void TapOps::enter_layer(int layer) {
  inner_.enter_layer(layer);
  current_ = &layers_[layer];
  norms_ = 0;
}

void TapOps::add_rms_norm(Tensor normed, Tensor residual, Tensor update, const float* gain,
                          float eps) {
  inner_.add_rms_norm(normed, residual, update, gain, eps);
  if (++norms_ != 2) return;
  size_t width = static_cast<size_t>(residual.row_size());
  current_->out.resize(rows_.size() * width);
  for (const Hit& hit : hits_) load_row(residual, hit.token, &current_->out[hit.row * width]);
}

void TapOps::index_topk(Tensor picked, Tensor index_q, Tensor head_weight, const KvView& kv,
                        const BatchView& batch) {
  inner_.index_topk(picked, index_q, head_weight, kv, batch);
  size_t cells = rows_.size() * static_cast<size_t>(context_);
  current_->selected.resize(cells);
  current_->index_score.resize(cells, -INFINITY);
  for (const Hit& hit : hits_) {
    size_t at = hit.row * static_cast<size_t>(context_);
    const int32_t* row = picked.row<int32_t>(hit.token);
    for (int64_t i = 0; i < picked.row_size() && row[i] >= 0; ++i)
      current_->selected[at + static_cast<size_t>(row[i])] = 1;
    Tensor scores(&current_->index_score[at], DType::f32, {1, context_});
    inner_.index_scores(scores, {&hit.token, 1}, index_q, head_weight, kv, batch);
  }
}

void TapOps::route(Tensor ids, Tensor weights, Tensor x, const QWeight& gate, const float* bias,
                   const RouterShape& shape) {
  inner_.route(ids, weights, x, gate, bias, shape);
  size_t k = static_cast<size_t>(ids.row_size());
  current_->experts.resize(rows_.size() * k);
  for (const Hit& hit : hits_)
    std::copy_n(ids.row<int32_t>(hit.token), k, &current_->experts[hit.row * k]);
}

}  // namespace fathom
