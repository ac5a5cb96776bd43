#include "runtime/model_ranks.h"

#include <cstring>

#include "base/check.h"
#include "base/error.h"

namespace fathom {

ModelRanks::ModelRanks(const Config& config, const RankWeights& weights, const ComputePlan& plan,
                       const RankWrapper& wrap)
    : rank_config_((check_plan(config, plan), config_of_rank(config, plan.layout))),
      orders_(plan.link),
      team_(plan) {
  if (plan.layout.data > 1)
    fail("one sequence lives in one group of ranks: --data-parallel-size is for an engine");
  FATHOM_CHECK(weights.size() == size(), "weights of {} ranks for {}", weights.size(), size());
  instances_.resize(static_cast<size_t>(size()));
  orders_.open_model(config, plan);
  team_.run([&](int rank) {
    OpsWrapper around;
    if (wrap) around = [&](Ops& ops) { return wrap(ops, rank); };
    instances_[static_cast<size_t>(rank)] = std::make_unique<ModelInstance>(
        rank_config_, weights[rank], team_.plan_of(rank), team_.pool(rank), around, nullptr,
        RankLinks{team_.comm(), nullptr});
  });
  orders_.wait_until_open();
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
  orders_.step(batch);
  return on_all([&](ModelInstance& m) { return m.step(batch); });
}

Tensor ModelRanks::step_from(int first_layer, Tensor hidden, const StepBatch& batch) {
  orders_.step_from(first_layer, hidden, batch);
  return on_all([&](ModelInstance& m) { return m.step_from(first_layer, hidden, batch); });
}

Tensor ModelRanks::mtp(const StepBatch& batch, std::span<const int32_t> next_ids,
                       std::span<const int32_t> from) {
  orders_.mtp(batch, next_ids, from);
  return on_all([&](ModelInstance& m) { return m.mtp(batch, next_ids, from); });
}

void ModelRanks::copy_pages(int from, int to, int count) {
  orders_.copy_pages(from, to, count);
  const int64_t rows = int64_t{count} * kPageRows;
  for (const auto& instance : instances_)
    for (const KvView& layer : instance->cache().layers()) {
      std::memcpy(layer.latent_row(int64_t{to} * kPageRows),
                  layer.latent_row(int64_t{from} * kPageRows),
                  static_cast<size_t>(rows * layer.latent_stride));
      if (layer.index)
        std::memcpy(layer.index_page(to), layer.index_page(from),
                    static_cast<size_t>(rows * layer.index_stride));
    }
}

}  // namespace fathom
