// ModelInstance: a model ready to run. The device's ops, the link to other ranks, the cache, the
// forward pass and room for logits, put together from a plan and placed weights. Nothing else
// assembles them: the engine's devices (step_runner.cpp, graph_runner.cpp), Evaluator and the
// benchmarks each hold an instance.
//
// What is to change for every one of them goes here: a draft step on the same cache, ops that
// another device works for (a wrapper). One of several ranks is an instance of its own: with its
// weights, and linked to the others (runtime/model_ranks.h).
#pragma once

#include <functional>
#include <memory>
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

// Puts an Ops of its own around the one given, which outlives it; may return null for nothing.
using OpsWrapper = std::function<std::unique_ptr<Ops>(Ops&)>;

// What links the ranks of a process.
struct RankLinks {
  CommGroup* group = nullptr;  // those of one attention group
  CommGroup* all = nullptr;    // those of all groups, where there are several
};

// Thread-compatible: one step at a time.
class ModelInstance {
 public:
  // Takes all its memory here. Config, weights and pool must outlive the instance; config and
  // weights are the rank's. With `cache` the rows of the caller's cache are used, so that two
  // instances may work on the same ones. `ranks` links a plan of several ranks. Throws Error for
  // what the device cannot do and for memory that is not there.
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

  // Each runs the batch and returns the logits that it asks for, [R, vocab] f32 in the ops' memory,
  // valid until the next call. See Forward for the arguments.
  Tensor step(const StepBatch& batch);
  Tensor step_from(int first_layer, Tensor hidden, const StepBatch& batch);
  Tensor mtp(const StepBatch& batch, std::span<const int32_t> next_ids,
             std::span<const int32_t> from = {});
  Tensor mtp_again(const StepBatch& batch, std::span<const int32_t> next_ids);

  // Room for `rows` rows of logits: the plan's stand ready, more are taken when first asked for.
  Tensor logits(int64_t rows);

 private:
  Ops& whole_ops() { return rank_ops_ ? *rank_ops_ : *device_ops_; }

  const Config& config_;
  const ComputePlan plan_;
  std::unique_ptr<Ops> device_ops_;
  std::unique_ptr<Comm> comm_, all_;
  std::unique_ptr<Ops> rank_ops_;  // around the device's, where there are several ranks
  std::unique_ptr<Ops> wrapped_;
  std::unique_ptr<KvPool> own_cache_;
  KvPool* cache_;
  Forward forward_;
  FormPolicy forms_;
  Buffer logits_;  // [logit rows, vocab] f32
};

// Memory of an instance beside weights and cache: an estimate from above.
int64_t instance_bytes(const Config& config, const ComputePlan& plan);

}  // namespace fathom
