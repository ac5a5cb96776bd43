// Observers of the MTP block: one sees what it joins, the other runs it wrongly on purpose.
#pragma once

#include <array>
#include <optional>
#include <string_view>

#include "kernels/trace_ops.h"
#include "model/config.h"
#include "model/weights.h"
#include "selfcheck/rows.h"
#include "tensor/buffer.h"

namespace fathom {

// Both work around ops whose memory the host can read, in one step of model and block.
// `weights` are those that the forward pass works with.

// Keeps what goes into the block and what it says, of the first run.
class MtpWatch final : public TraceOps {
 public:
  MtpWatch(Ops& inner, const Config& config, const Weights& weights);

  // [T, hidden] each, empty if it did not come by:
  OwnedTensor normed;    // the model's state after its final norm,
  OwnedTensor combined;  // [T, 2 * hidden], what eh_proj was given,
  OwnedTensor residual;  // the block's state in front of shared_head.norm,
  OwnedTensor said;      // and what the head was given

  void add_rms_norm(Tensor out, Tensor x, Tensor update, const float* gain, float eps) override;
  void project(std::span<const Projection> projections, Tensor x) override;
  void logits(Tensor out, Tensor hidden, const QWeight& head) override;

 private:
  bool in_block() const { return layer() == layers_; }

  const int layers_;
  const void* const combine_;
};

// Mistakes that engines and converters have made, or may make, with the block's few tensors.
enum class MtpVariant : uint8_t {
  swapped,
  norms_exchanged,
  state_before_norm,
  embed_gain_missing,
  embed_norm_missing,
  hidden_gain_missing,
  hidden_norm_missing,
  head_gain_missing,
  model_norm_at_head,
};
struct NamedMtpVariant {
  MtpVariant variant;
  std::string_view words;
};
inline constexpr std::array<NamedMtpVariant, 9> kMtpVariants = {{
    {MtpVariant::swapped, "embedding and state swapped"},
    {MtpVariant::norms_exchanged, "enorm and hnorm exchanged"},
    {MtpVariant::state_before_norm, "the state before the model's norm"},
    {MtpVariant::embed_gain_missing, "enorm without its gain"},
    {MtpVariant::embed_norm_missing, "no enorm"},
    {MtpVariant::hidden_gain_missing, "hnorm without its gain"},
    {MtpVariant::hidden_norm_missing, "no hnorm"},
    {MtpVariant::head_gain_missing, "shared_head.norm without its gain"},
    {MtpVariant::model_norm_at_head, "the model's norm as shared_head.norm"},
}};

// Keeps the state that the block takes in its first run, so that it can be run over it again and
// again, as it is or as a variant.
class MtpVariantOps final : public TraceOps {
 public:
  // At most `tokens` tokens a step.
  MtpVariantOps(Ops& inner, const Config& config, const Weights& weights, int tokens);

  // How the block runs from now on; none: as it is.
  void set(std::optional<MtpVariant> variant) { variant_ = variant; }

  void rms_norm(Tensor out, Tensor x, const float* gain, float eps) override;
  void add_rms_norm(Tensor normed, Tensor residual, Tensor update, const float* gain,
                    float eps) override;

 private:
  bool is(MtpVariant v) const { return variant_ == v; }
  const float* ones() const { return reinterpret_cast<const float*>(ones_.data()); }
  void norm_embedding(Tensor out, Tensor x, float eps);
  void norm_state(Tensor out, Tensor x, float eps);

  const Config& config_;
  const Weights& weights_;
  std::optional<MtpVariant> variant_;
  Buffer ones_;  // [hidden] f32: a norm without gain
  Buffer before_memory_, taken_memory_;
  Tensor before_;  // [T, hidden]: the state in front of the model's final norm,
  Tensor taken_;   // and the one that the block took in its first run
};

}  // namespace fathom
