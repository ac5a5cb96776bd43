// ModelRanks: a model ready to run on the ranks of this process, one or several, of one group or
// several. If the plan has several processes, all of them take the steps that process 0 takes. For
// callers that run batches themselves; the engine uses runners (step_runner.h).
#pragma once

#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "runtime/model_instance.h"
#include "runtime/orders.h"
#include "runtime/rank_record.h"
#include "runtime/rank_team.h"

namespace fathom {

// Returns an Ops that wraps those of one rank, or null for no wrapper. Called on the rank's thread.
using RankWrapper = std::function<std::unique_ptr<Ops>(Ops&, int rank)>;

// Thread-compatible, as RankTeam.
class ModelRanks {
 public:
  // `config` is the whole model's; it and the weights, of the ranks of this process, must outlive
  // this object. With `record`, instead of a wrapper, records() says what each rank chose. Throws
  // Error for several groups with an MTP block.
  ModelRanks(const Config& config, const RankWeights& weights, const ComputePlan& plan,
             const RankWrapper& wrap = {}, bool record = false);

  // Ranks of this process; they are numbered from 0 here.
  int size() const { return static_cast<int>(instances_.size()); }
  // The rank whose logits and observations are used: all ranks of its group end a step with the
  // same ones.
  ModelInstance& first() { return *instances_[0]; }
  const ModelInstance& first() const { return *instances_[0]; }
  ModelInstance& at(int rank) { return *instances_[static_cast<size_t>(rank)]; }
  ThreadPool& pool() { return teams_[0]->pool(0); }
  std::string describe() const;

  // Takes batches[g] as the step of group g. Groups without a batch, or with an empty one, compute
  // their experts for the others. Returns the logits of the first group of this process.
  Tensor step(std::span<const StepBatch> batches);
  // As those of ModelInstance, on all ranks of the first group.
  Tensor step(const StepBatch& batch) { return step({&batch, 1}); }
  Tensor step_from(int first_layer, Tensor hidden, const StepBatch& batch);
  Tensor mtp(const StepBatch& batch, std::span<const int32_t> next_ids,
             std::span<const int32_t> from = {});
  // Copies pages [from, from + count) of every rank's cache to the pages from `to` on. On a CPU.
  void copy_pages(int from, int to, int count);

  // Of every rank of the plan, in order; in another process than 0, of its own ranks.
  std::vector<RankRecord> records();

 private:
  void make_ranks(int i, const RankWeights& weights, const RankWrapper& wrap);
  // Calls body(group here) for all groups of this process at once, each always on the same thread.
  // Throws Error with the first cause if one throws.
  void for_groups(const std::function<void(int i)>& body);
  // Returns what body(instance, group) returns on the first rank.
  template <class Body>
  Tensor on_all(const Body& body);

  const Config rank_config_;
  const ComputePlan plan_;
  Orders orders_;
  const World world_;
  std::vector<std::unique_ptr<RankTeam>> teams_;  // by group of this process
  std::vector<std::unique_ptr<ModelInstance>> instances_;
  std::vector<RankRecord> records_;  // of the ranks of this process
  const StepBatch idle_;             // of a group that has nothing to do
  std::mutex mutex_;
  std::string cause_;   // of the first failure
  ThreadTeam threads_;  // of the groups; ends first
};

}  // namespace fathom
