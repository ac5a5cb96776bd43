#include "runtime/taps.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/rows.h"

namespace fathom {

TapOps::TapOps(Ops& inner, std::vector<int64_t> rows, int64_t context)
    : TraceOps(inner), rows_(std::move(rows)), context_(context) {}

StepInputs TapOps::begin_step(const StepInputs& inputs) {
  hits_.clear();
  for (size_t r = 0; r < rows_.size(); ++r)
    for (int t = 0; t < inputs.live; ++t)
      if (inputs.batch.positions[t] == rows_[r]) hits_.push_back({r, t});
  return inner_.begin_step(inputs);
}

void TapOps::enter_layer(int layer) {
  TraceOps::enter_layer(layer);
  current_ = &layers_[layer];
  norms_ = 0;
}

void TapOps::after(OpKind kind, std::span<const Tensor> results) {
  if (kind == OpKind::add_rms_norm && ++norms_ == 2) record_residual(results[1]);
  if (kind == OpKind::route) record_experts(results[0]);
}

void TapOps::record_residual(Tensor residual) {
  const size_t width = static_cast<size_t>(residual.row_size());
  current_->out.resize(rows_.size() * width);
  for (const Hit& hit : hits_) load_row(residual, hit.token, &current_->out[hit.row * width]);
}

void TapOps::record_experts(Tensor ids) {
  const size_t k = static_cast<size_t>(ids.row_size());
  current_->experts.resize(rows_.size() * k);
  for (const Hit& hit : hits_)
    std::copy_n(ids.row<int32_t>(hit.token), k, &current_->experts[hit.row * k]);
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

}  // namespace fathom
