// Rig: an Evaluator with the observers of the self-check around its ops. From the outside to the
// inside: an observer of a check (optional), CompareOps (optional), a fault that a test injects
// (optional), RecordOps, the kernels.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "kernels/trace_ops.h"
#include "runtime/evaluator.h"
#include "selfcheck/compare.h"

namespace fathom {

// Arguments and results of the kernels, for the checks.
struct Record {
  std::vector<int32_t> picked, experts;     // of all tokens and layers, in the order computed
  std::vector<float> scales;                // softmax scales, each once
  std::vector<float> cos, sin;              // rotation table, [positions, pairs]
  int64_t latent_rows = 0, index_rows = 0;  // fp8 cache rows that the check quantised again,
  int64_t changed_rows = 0;                 // and those whose values changed by that
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
  void attend_expanded(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked, const KvView& kv,
                       const BatchView& batch, float scale) override;
  void attend_absorbed(Tensor out, Tensor q, const KvUpWeights& up, Tensor picked, const KvView& kv,
                       const BatchView& batch, float scale) override;

 private:
  void after(OpKind kind, std::span<const Tensor> results) override;
  void note_scale(float scale);
};

struct RigOptions {
  EvalOptions eval;  // its `wrap` is the fault that a test injects
  std::optional<CompareLimits> compare;
  OpsWrapper observer = {};  // around all the others
};

using LogitRows = std::map<int64_t, std::vector<float>>;

class Rig {
 public:
  Rig(const Config& config, const Weights& weights, const RigOptions& options);

  // Runs the sequence from its start: prefill in pieces of the given sizes (the last size repeats),
  // and decode, token by token, from position `decode_from` on.
  LogitRows run(std::span<const int32_t> ids, std::vector<int> pieces, int64_t decode_from,
                std::span<const int64_t> rows);

  Evaluator& evaluator() { return *evaluator_; }
  const Record& record() const { return record_->record; }
  const CompareOps* compare() const { return compare_; }

 private:
  RecordOps* record_ = nullptr;
  CompareOps* compare_ = nullptr;
  std::unique_ptr<Evaluator> evaluator_;
  std::unique_ptr<Ops> reference_;  // uses the evaluator's threads: a second pool would slow both
};

}  // namespace fathom
