#include "selfcheck/mtp_ops.h"

#include <algorithm>
#include <cstring>

namespace fathom {
namespace {

void copy_values(Tensor to, Tensor from) {
  FATHOM_CHECK(
      to.dtype == from.dtype && to.rows() == from.rows() && to.row_size() == from.row_size(),
      "{} x {} of {} copied to {} x {} of {}", from.rows(), from.row_size(), name_of(from.dtype),
      to.rows(), to.row_size(), name_of(to.dtype));
  const size_t element = size_of(to.dtype);
  for (int64_t t = 0; t < to.rows(); ++t)
    std::memcpy(static_cast<std::byte*>(to.data) + static_cast<size_t>(t * to.row_stride) * element,
                static_cast<const std::byte*>(from.data) +
                    static_cast<size_t>(t * from.row_stride) * element,
                static_cast<size_t>(to.row_size()) * element);
}

// Of one tensor only the first is kept.
void keep_once(OwnedTensor& kept, Tensor x) {
  if (!kept.memory.empty()) return;
  kept = OwnedTensor(x, x.rows(), x.dtype);
  copy_values(kept.t, x);
}

Tensor copied(Buffer& memory, Tensor x) {
  Tensor copy(memory.data(), x.dtype, {x.rows(), x.row_size()});
  copy_values(copy, x);
  return copy;
}

}  // namespace

MtpWatch::MtpWatch(Ops& inner, const Config& config, const Weights& weights)
    : TraceOps(inner), layers_(config.layers), combine_(weights.mtp->combine.data) {}

// The last norm of the model's last layer is the final one, that of the block shared_head.norm.
void MtpWatch::add_rms_norm(Tensor out, Tensor x, Tensor update, const float* gain, float eps) {
  TraceOps::add_rms_norm(out, x, update, gain, eps);
  if (!said.memory.empty()) return;
  OwnedTensor& last = in_block() ? residual : normed;
  last = {};
  keep_once(last, in_block() ? x : out);
}

void MtpWatch::project(std::span<const Projection> projections, Tensor x) {
  if (projections.size() == 1 && projections[0].weight.data == combine_) keep_once(combined, x);
  TraceOps::project(projections, x);
}

void MtpWatch::logits(Tensor out, Tensor hidden, const QWeight& head) {
  if (in_block()) keep_once(said, hidden);
  TraceOps::logits(out, hidden, head);
}

MtpVariantOps::MtpVariantOps(Ops& inner, const Config& config, const Weights& weights, int tokens)
    : TraceOps(inner),
      config_(config),
      weights_(weights),
      ones_(static_cast<size_t>(config.hidden) * sizeof(float), inner.memory()),
      before_memory_(
          static_cast<size_t>(config.hidden) * static_cast<size_t>(tokens) * sizeof(float),
          inner.memory()),
      taken_memory_(before_memory_.size(), inner.memory()) {
  std::fill_n(reinterpret_cast<float*>(ones_.data()), config.hidden, 1.0f);
}

void MtpVariantOps::rms_norm(Tensor out, Tensor x, const float* gain, float eps) {
  if (gain == weights_.mtp->embed_norm) return norm_embedding(out, x, eps);
  if (gain == weights_.mtp->hidden_norm) return norm_state(out, x, eps);
  TraceOps::rms_norm(out, x, gain, eps);
}

// Embedding and state are normed into the left and the right half of eh_proj's input.
void MtpVariantOps::norm_embedding(Tensor out, Tensor x, float eps) {
  const MtpWeights& w = *weights_.mtp;
  if (is(MtpVariant::swapped))
    out.data = static_cast<std::byte*>(out.data) + config_.hidden * size_of(out.dtype);
  if (is(MtpVariant::embed_norm_missing)) return copy_values(out, x);
  const float* gain = is(MtpVariant::embed_gain_missing) ? ones()
                      : is(MtpVariant::norms_exchanged)  ? w.hidden_norm
                                                         : w.embed_norm;
  TraceOps::rms_norm(out, x, gain, eps);
}

void MtpVariantOps::norm_state(Tensor out, Tensor x, float eps) {
  const MtpWeights& w = *weights_.mtp;
  if (taken_.empty()) taken_ = copied(taken_memory_, x);
  if (is(MtpVariant::swapped))
    out.data = static_cast<std::byte*>(out.data) - config_.hidden * size_of(out.dtype);
  const Tensor state = is(MtpVariant::state_before_norm) ? before_ : taken_;
  if (is(MtpVariant::hidden_norm_missing)) return copy_values(out, state);
  const float* gain = is(MtpVariant::hidden_gain_missing) ? ones()
                      : is(MtpVariant::norms_exchanged)   ? w.embed_norm
                                                          : w.hidden_norm;
  TraceOps::rms_norm(out, state, gain, eps);
}

void MtpVariantOps::add_rms_norm(Tensor normed, Tensor residual, Tensor update, const float* gain,
                                 float eps) {
  const bool in_block = layer() == config_.layers;
  const float* used = gain;
  if (in_block && gain == weights_.mtp->head_norm)
    used = is(MtpVariant::head_gain_missing)    ? ones()
           : is(MtpVariant::model_norm_at_head) ? weights_.norm
                                                : gain;
  TraceOps::add_rms_norm(normed, residual, update, used, eps);
  if (!in_block && gain == weights_.norm) before_ = copied(before_memory_, residual);
}

}  // namespace fathom
