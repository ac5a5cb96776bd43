// Rig: an Evaluator with the observers of the self-check around its ops. From the outside in:
// CompareOps (optional), the test's fault (optional), RecordOps, the kernels.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "kernels/trace_ops.h"
#include "runtime/evaluator.h"
#include "selfcheck/compare.h"

namespace fathom {

// What reached the kernels.
struct Record {
  std::vector<int32_t> picked, experts;     // of all tokens and layers, in the order computed
  std::vector<float> scales;                // softmax scales, each once
  std::vector<float> cos, sin;              // rotation table, [positions, pairs]
  int64_t latent_rows = 0, index_rows = 0;  // fp8 cache rows re-quantised,
  int64_t changed_rows = 0;                 // and those that gave other values
};

class RecordOps final : public TraceOps {
 public:
  explicit RecordOps(Ops& inner) : TraceOps(inner) {}

  Record record;

  void rope_query(Tensor q, const BatchView& batch, const RopeTable& rope) override;
  void append_latent(const KvView& kv, Tensor kv_a, const float* gain, float eps,
                     const BatchView& batch, const RopeTable& rope) override;
  void append_index_key(const KvView& kv, Tensor k, const LayerNormWeights& norm,
                        const BatchView& batch, const RopeTable& rope) override;
  void index_topk(Tensor picked, Tensor index_q, Tensor head_weight, const KvView& kv,
                  const BatchView& batch) override;
  void attend_expanded(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked, const KvView& kv,
                       const BatchView& batch, float scale) override;
  void attend_absorbed(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked, const KvView& kv,
                       const BatchView& batch, float scale) override;
  void route(Tensor ids, Tensor weights, Tensor x, const QWeight& gate, const float* bias,
             const RouterShape& shape) override;

 private:
  void note_scale(float scale);
};

struct RigOptions {
  EvalOptions eval;  // its `wrap` is the test's fault
  std::optional<CompareLimits> compare;
};

using LogitRows = std::map<int64_t, std::vector<float>>;

class Rig {
 public:
  Rig(const Config& config, const Weights& weights, const RigOptions& options);

  // The sequence from its start: prefill in pieces of the sizes given (the last size repeats), then
  // from `decode_from` on, token by token.
  LogitRows run(std::span<const int32_t> ids, std::vector<int> pieces, int64_t decode_from,
                std::span<const int64_t> rows);

  Evaluator& evaluator() { return *evaluator_; }
  const Record& record() const { return record_->record; }
  const CompareOps* compare() const { return compare_; }

 private:
  RecordOps* record_ = nullptr;
  CompareOps* compare_ = nullptr;
  std::unique_ptr<Evaluator> evaluator_;
  std::unique_ptr<Ops> reference_;  // on the evaluator's threads: two teams would only disturb
};

}  // namespace fathom
