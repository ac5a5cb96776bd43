// The cost model of `bench`: the bytes that a step must move and the floating-point operations that
// it must do. It counts what the algorithm needs and not what an implementation does. So the share
// of the machine's limit that is missing to one is room for improvement.
//
// Bytes   every matrix a step uses is read once, as it is stored (FP8 codes with their scales,
// bf16);
//         of the routed experts those the step's tokens were routed to. Cache rows: each row that
//         some token of the step needs is read once, each new one is written. Left out: activations
//         and norms, which a cache holds (together under 1 % at batch 1).
// FLOPs   2 for every weight of a matrix a token passes; 2 index_heads index_dim for every indexer
//         score; per (query, key) pair of attention those of the form its position is given. Left
//         out: softmax, norms, rope, routing and quantisation. kv_b_proj counts once a token in
//         either form: absorbed, on the query and the result; expanded, on the key it adds.
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

// The matrices of a model without its MTP block, by when a step needs them.
struct ModelVolumes {
  Volume always;       // attention, router, shared experts and dense MLPs of all layers
  Volume index_query;  // wq_b and weights_proj of all layers: only where the indexer scores
  Volume experts;      // all routed experts
  Volume head, embed;
  int64_t expert_count = 0;  // routed experts of all layers

  Volume expert() const;  // one of them
  int64_t parameters() const;
  int64_t bytes() const;
};

// As config.json says the checkpoint is stored: FP8 with block scales, or bf16.
ModelVolumes volumes_of(const Config& config);
// As it was loaded.
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

  // What to expect of `expert_reads` when every expert is as likely as any other: of E experts, n
  // tokens that take k each find E (1 - (1 - k/E)^n) distinct ones.
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
