// Observers of the MTP block: MtpWatch keeps its inner tensors, MtpVariantOps runs it wrongly on
// purpose.
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

// Both wrap ops whose memory the host can read, for one step of model and block. `weights` are
// those of the forward pass.

// Keeps inputs and outputs of the block's first run.
class MtpWatch final : public TraceOps {
 public:
  MtpWatch(Ops& inner, const Config& config, const Weights& weights);

  // [T, hidden] each; empty if it was not computed:
  OwnedTensor normed;    // the model's state after its final norm,
  OwnedTensor combined;  // [T, 2 * hidden], the input of eh_proj,
  OwnedTensor residual;  // the block's state before shared_head.norm,
  OwnedTensor said;      // and the input of the head

  void add_rms_norm(Tensor out, Tensor x, Tensor update, const float* gain, float eps) override;
  void project(std::span<const Projection> projections, Tensor x) override;
  void logits(Tensor out, Tensor hidden, const QWeight& head) override;

 private:
  bool in_block() const { return layer() == layers_; }

  const int layers_;
  const void* const combine_;
};

// Mistakes that engines and converters have made, or may make, with the block's tensors.
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

// Keeps the states that the block's first run starts from, so that it can be run from them again,
// correctly or as a variant.
class MtpVariantOps final : public TraceOps {
 public:
  // For steps of at most `tokens` tokens.
  MtpVariantOps(Ops& inner, const Config& config, const Weights& weights, int tokens);

  // Sets how the block runs from now on; none: correctly.
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
  Tensor before_;  // [T, hidden]: the state before the model's final norm,
  Tensor taken_;   // and the state that the block's first run started from
};

}  // namespace fathom
