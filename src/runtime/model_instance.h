// ModelInstance: a model ready to run. It is put together from a plan and placed weights: the
// device's ops, the link to other ranks, the cache, the forward pass and room for logits. Nothing
// else assembles these parts: the engine's devices (step_runner.cpp, graph_runner.cpp), Evaluator
// and the benchmarks each hold an instance.
//
// A change that concerns all of these users belongs here. Each of several ranks has an instance of
// its own, with its weights and a link to the others (runtime/model_ranks.h).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "base/thread_pool.h"
#include "cache/kv_pool.h"
#include "comm/comm.h"
#include "kernels/ops.h"
#include "model/forward.h"
#include "model/step_batch.h"
#include "model/weights.h"
#include "runtime/compute_plan.h"

namespace fathom {

// Returns an Ops that wraps the given one, which outlives it; or null for no wrapper.
using OpsWrapper = std::function<std::unique_ptr<Ops>(Ops&)>;

// The links between the ranks of a process.
struct RankLinks {
  CommGroup* group = nullptr;  // of the ranks of one attention group
  CommGroup* all = nullptr;    // of all ranks, if there are several groups
};

// Thread-compatible: one step at a time.
class ModelInstance {
 public:
  // Allocates all its memory. Config and weights are the rank's; they and the pool must outlive the
  // instance. With `cache` it uses the caller's cache, so that two instances may work on the same
  // rows. `ranks` is needed for a plan of several ranks. Throws Error if the device does not
  // support the plan or memory does not suffice.
  ModelInstance(const Config& config, const Weights& weights, const ComputePlan& plan,
                ThreadPool& pool, const OpsWrapper& wrap = {}, KvPool* cache = nullptr,
                const RankLinks& ranks = {});

  const ComputePlan& plan() const { return plan_; }
  Ops& device_ops() { return *device_ops_; }  // of this rank alone, without the wrapper
  Ops& ops() { return wrapped_ ? *wrapped_ : whole_ops(); }
  KvPool& cache() { return *cache_; }
  const KvPool& cache() const { return *cache_; }
  const FormPolicy& forms() const { return forms_; }
  Comm* all() {
    return all_.get();
  }  // links the ranks of all groups; null where there is one group
  std::string describe() const;

  // These run the batch and return the logits of its logit rows, [R, vocab] f32 in the ops' memory,
  // valid until the next call. See Forward for the arguments.
  Tensor step(const StepBatch& batch);
  Tensor step_from(int first_layer, Tensor hidden, const StepBatch& batch);
  Tensor mtp(const StepBatch& batch, std::span<const int32_t> next_ids,
             std::span<const int32_t> from = {});
  Tensor mtp_again(const StepBatch& batch, std::span<const int32_t> next_ids);

  // Returns room for `rows` rows of logits. Room for the plan's logit_rows exists; more is
  // allocated when first asked for.
  Tensor logits(int64_t rows);

 private:
  Ops& whole_ops() { return rank_ops_ ? *rank_ops_ : *device_ops_; }

  const Config& config_;
  const ComputePlan plan_;
  std::unique_ptr<Ops> device_ops_;
  std::unique_ptr<Comm> comm_, all_;
  std::unique_ptr<Ops> rank_ops_;  // around device_ops_, if there are several ranks
  std::unique_ptr<Ops> wrapped_;
  std::unique_ptr<KvPool> own_cache_;
  KvPool* cache_;
  Forward forward_;
  FormPolicy forms_;
  Buffer logits_;  // [logit rows, vocab] f32
};

// Returns the memory of an instance without weights and cache, as an upper bound.
int64_t instance_bytes(const Config& config, const ComputePlan& plan);

}  // namespace fathom
