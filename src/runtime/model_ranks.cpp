#include "runtime/model_ranks.h"

#include "base/check.h"
#include "base/error.h"

namespace fathom {

ModelRanks::ModelRanks(const Config& config, const RankWeights& weights, const ComputePlan& plan,
                       const RankWrapper& wrap)
    : rank_config_((check_plan(config, plan), config_of_rank(config, plan.layout))), team_(plan) {
  if (plan.layout.data > 1)
    fail("one sequence lives in one group of ranks: --data-parallel-size is for an engine");
  FATHOM_CHECK(weights.size() == size(), "weights of {} ranks for {}", weights.size(), size());
  instances_.resize(static_cast<size_t>(size()));
  team_.run([&](int rank) {
    OpsWrapper around;
    if (wrap) around = [&](Ops& ops) { return wrap(ops, rank); };
    instances_[static_cast<size_t>(rank)] = std::make_unique<ModelInstance>(
        rank_config_, weights[rank], team_.plan_of(rank), team_.pool(rank), around, nullptr,
        RankLinks{team_.comm(), nullptr});
  });
}

std::string ModelRanks::describe() const { return first().describe(); }

template <class Body>
Tensor ModelRanks::on_all(const Body& body) {
  Tensor logits;
  team_.run([&](int rank) {
    const Tensor own = body(at(rank));
    if (rank == 0) logits = own;
  });
  return logits;
}

Tensor ModelRanks::step(const StepBatch& batch) {
  return on_all([&](ModelInstance& m) { return m.step(batch); });
}

Tensor ModelRanks::step_from(int first_layer, Tensor hidden, const StepBatch& batch) {
  return on_all([&](ModelInstance& m) { return m.step_from(first_layer, hidden, batch); });
}

Tensor ModelRanks::mtp(const StepBatch& batch, std::span<const int32_t> next_ids,
                       std::span<const int32_t> from) {
  return on_all([&](ModelInstance& m) { return m.mtp(batch, next_ids, from); });
}

}  // namespace fathom
