// ModelRanks: a model ready to run on the ranks of this process, one or several. If the plan has
// several processes, all of them take the steps that process 0 takes. For callers that run batches
// themselves; the engine uses runners (step_runner.h).
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "runtime/model_instance.h"
#include "runtime/orders.h"
#include "runtime/rank_team.h"

namespace fathom {

// Returns an Ops that wraps those of one rank, or null for no wrapper. Called on the rank's thread.
using RankWrapper = std::function<std::unique_ptr<Ops>(Ops&, int rank)>;

// Thread-compatible, as RankTeam.
class ModelRanks {
 public:
  // `config` is the whole model's; it and the weights, of the ranks of this process, must outlive
  // this object.
  ModelRanks(const Config& config, const RankWeights& weights, const ComputePlan& plan,
             const RankWrapper& wrap = {});

  int size() const { return team_.size(); }  // ranks of this process; they are numbered from 0 here
  // The rank whose logits and observations are used: all ranks end a step with the same ones.
  ModelInstance& first() { return *instances_[0]; }
  const ModelInstance& first() const { return *instances_[0]; }
  ModelInstance& at(int rank) { return *instances_[static_cast<size_t>(rank)]; }
  ThreadPool& pool() { return team_.pool(0); }
  std::string describe() const;

  // As those of ModelInstance, on all ranks.
  Tensor step(const StepBatch& batch);
  Tensor step_from(int first_layer, Tensor hidden, const StepBatch& batch);
  Tensor mtp(const StepBatch& batch, std::span<const int32_t> next_ids,
             std::span<const int32_t> from = {});
  // Copies pages [from, from + count) of every rank's cache to the pages from `to` on. On a CPU.
  void copy_pages(int from, int to, int count);

 private:
  template <class Body>
  Tensor on_all(const Body& body);

  const Config rank_config_;
  Orders orders_;
  RankTeam team_;
  std::vector<std::unique_ptr<ModelInstance>> instances_;
};

}  // namespace fathom
