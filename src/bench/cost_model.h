// The cost model of `bench`: the bytes that a step must move and the floating-point operations that
// it must do. It counts what the algorithm needs, not what an implementation does. So if `bench`
// shows 80 % of the machine's limit, 20 % is room for improvement.
//
// Bytes   Every matrix that a step uses is read once, as it is stored (FP8 codes with their
//         scales, or bf16); of the routed experts only those that the step's tokens were routed
//         to. Each cache row that some token of the step needs is read once, each new one is
//         written. Not counted: activations and norms, which stay in the processor's caches
//         (together under 1 % at batch 1).
// FLOPs   2 for every weight of a matrix, for every token that is multiplied with it.
//         2 index_heads index_dim for every indexer score. For every (query, key) pair of
//         attention, those of the form that its position uses. kv_b_proj counts once per token in
//         either form: absorbed, for the query and the result; expanded, for the key that the
//         token adds. Not counted: softmax, norms, rope, routing and quantisation.
#pragma once

#include <cstdint>
#include <span>

#include "cache/kv_pool.h"
#include "model/attention_form.h"
#include "model/config.h"
#include "model/weights.h"

namespace fathom {

struct Volume {
  int64_t parameters = 0, bytes = 0;
};

// The matrices of a model without its MTP block, grouped by when a step reads them.
struct ModelVolumes {
  Volume always;       // attention, router, shared experts and dense MLPs of all layers
  Volume index_query;  // wq_b and weights_proj of all layers: read only if the indexer scores
  Volume experts;      // all routed experts
  Volume head, embed;
  int64_t expert_count = 0;  // routed experts of all layers

  Volume expert() const;  // one of them
  int64_t parameters() const;
  int64_t bytes() const;
};

// By the config: FP8 with block scales, or bf16.
ModelVolumes volumes_of(const Config& config);
// By the loaded weights.
ModelVolumes volumes_of(const Config& config, const Weights& weights);

struct StepCost {
  struct {
    double weights = 0, experts = 0, cache = 0;
    double total() const { return weights + experts + cache; }
  } bytes;
  struct {
    double projections = 0, experts = 0, indexer = 0, attention = 0, head = 0;
    double total() const { return projections + experts + indexer + attention + head; }
  } flops;
  StepCost& operator+=(const StepCost& other);
};

// Tokens at positions [first, first + tokens) of one sequence in one step.
struct SequenceRun {
  int64_t first;
  int tokens;
  bool decode;
};

class CostModel {
 public:
  CostModel(const Config& config, const ModelVolumes& volumes, const KvShape& cache,
            AttentionMode attention, const FormPolicy& forms);

  // `expert_reads`: distinct (layer, expert) pairs that the tokens of the step were routed to.
  StepCost step(std::span<const SequenceRun> runs, int logit_rows, double expert_reads) const;

  // Returns the expected `expert_reads` if all experts are equally likely: of E experts, n tokens
  // that choose k each read E (1 - (1 - k/E)^n) distinct ones in a layer.
  double expected_expert_reads(int tokens) const;

  int moe_layers() const { return moe_layers_; }
  const ModelVolumes& volumes() const { return volumes_; }

 private:
  void attend(const SequenceRun& run, StepCost& cost) const;

  Config config_;
  ModelVolumes volumes_;
  KvShape cache_;
  bool sparse_;
  FormPolicy forms_;
  int moe_layers_ = 0;
};

}  // namespace fathom
