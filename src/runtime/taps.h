// TapOps: records what every layer computes for chosen positions of one sequence: the residual
// stream after the layer, the indexer's scores and picks, the experts.
#pragma once

#include <map>
#include <span>
#include <vector>

#include "kernels/trace_ops.h"

namespace fathom {

struct LayerTaps {
  std::vector<float> out;          // [R, hidden] residual stream after the layer
  std::vector<float> index_score;  // [R, context]; -inf beyond the row's own position
  std::vector<uint8_t> selected;   // [R, context] 0 or 1
  std::vector<int32_t> experts;    // [R, experts_per_token], in order of preference
};

class TapOps final : public TraceOps {
 public:
  // `rows`: positions to record, ascending; `context`: length of the whole sequence. Its steps must
  // contain no other sequence.
  TapOps(Ops& inner, std::vector<int64_t> rows, int64_t context);

  const std::map<int, LayerTaps>& layers() const { return layers_; }

  StepInputs begin_step(const StepInputs& inputs) override;
  void enter_layer(int layer) override;
  void index_topk(Tensor picked, Tensor index_q, Tensor head_weight, const KvView& kv,
                  const BatchView& batch) override;

 private:
  void after(OpKind kind, std::span<const Tensor> results) override;
  void record_residual(Tensor residual);
  void record_experts(Tensor ids);

  // A recorded row that belongs to the current step: its place in rows_ and its batch token.
  struct Hit {
    size_t row;
    int32_t token;
  };

  std::vector<int64_t> rows_;
  int64_t context_;
  std::vector<Hit> hits_;
  std::map<int, LayerTaps> layers_;
  LayerTaps* current_ = nullptr;
  int norms_ = 0;  // add_rms_norm calls seen in this layer: after attention, then after the FFN
};

}  // namespace fathom
