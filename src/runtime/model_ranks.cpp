#include "runtime/model_ranks.h"

#include "base/check.h"
#include "base/error.h"

namespace fathom {

ModelRanks::ModelRanks(const Config& config, const RankWeights& weights, const ComputePlan& plan,
                       const RankWrapper& wrap, bool record)
    : rank_config_((check_plan(config, plan), config_of_rank(config, plan.layout))),
      plan_(plan),
      orders_(plan.link, Followers::all(plan.layout)),
      world_(plan),
      teams_(static_cast<size_t>(plan.layout.groups_here())),
      instances_(static_cast<size_t>(plan.layout.ranks_here())),
      records_(record ? instances_.size() : 0),
      idle_(plan.step_tokens, step_sequences(plan.sequences),
            static_cast<int>(pages_for(plan.context))),
      threads_(plan.layout.groups_here(), /*with_caller=*/true) {
  if (plan.layout.data > 1 && plan.mtp)
    fail("the MTP block runs in one group of ranks: {} are asked for", plan.layout.data);
  FATHOM_CHECK(weights.size() == size(), "weights of {} ranks for {}", weights.size(), size());
  FATHOM_CHECK(!wrap || !record, "records of ranks that are watched already");
  RankWrapper around = wrap;
  if (record)
    around = [this](Ops& ops, int rank) {
      return std::make_unique<RankRecorder>(ops, records_[static_cast<size_t>(rank)]);
    };
  orders_.open_model(config, plan, record);
  for_groups([&](int i) { make_ranks(i, weights, around); });
  orders_.wait_until_open();
}

void ModelRanks::make_ranks(int i, const RankWeights& weights, const RankWrapper& wrap) {
  ComputePlan plan = plan_;
  plan.layout = plan_.layout.in_group(plan_.layout.first_group_here() + i);
  const int first = plan.layout.place_here();
  auto& team = teams_[static_cast<size_t>(i)];
  team = std::make_unique<RankTeam>(plan, world_.group.get());
  team->run([&](int rank) {
    const int here = first + rank;
    OpsWrapper around;
    if (wrap) around = [&](Ops& ops) { return wrap(ops, here); };
    instances_[static_cast<size_t>(here)] = std::make_unique<ModelInstance>(
        rank_config_, weights[here], team->plan_of(rank), team->pool(rank), around, nullptr,
        RankLinks{team->comm(), world_.group.get()});
  });
}

std::string ModelRanks::describe() const {
  if (plan_.layout.ranks() == 1) return first().describe();
  return fmt::format("{}: {}", plan_.layout.describe(), first().describe());
}

void ModelRanks::for_groups(const std::function<void(int)>& body) {
  if (threads_.size() == 1) return body(0);
  threads_.run([&](int i) {
    try {
      body(i);
    } catch (const std::exception& e) {
      std::lock_guard lock(mutex_);
      if (cause_.empty()) cause_ = e.what();
    }
  });
  std::lock_guard lock(mutex_);
  if (!cause_.empty()) throw Error(cause_);
}

template <class Body>
Tensor ModelRanks::on_all(const Body& body) {
  Tensor logits;
  for_groups([&](int i) {
    RankTeam& team = *teams_[static_cast<size_t>(i)];
    team.run([&](int rank) {
      const Tensor own = body(at(i * team.size() + rank), plan_.layout.first_group_here() + i);
      if (i == 0 && rank == 0) logits = own;
    });
  });
  return logits;
}

Tensor ModelRanks::step(std::span<const StepBatch> batches) {
  orders_.step(batches);
  return on_all([&](ModelInstance& m, int group) {
    return m.step(group < static_cast<int>(batches.size()) ? batches[static_cast<size_t>(group)]
                                                           : idle_);
  });
}

Tensor ModelRanks::step_from(int first_layer, Tensor hidden, const StepBatch& batch) {
  orders_.step_from(first_layer, hidden, batch);
  return on_all([&](ModelInstance& m, int group) {
    return m.step_from(first_layer, hidden, group == 0 ? batch : idle_);
  });
}

Tensor ModelRanks::mtp(const StepBatch& batch, std::span<const int32_t> next_ids,
                       std::span<const int32_t> from) {
  orders_.mtp(batch, next_ids, from);
  return on_all([&](ModelInstance& m, int) { return m.mtp(batch, next_ids, from); });
}

std::vector<RankRecord> ModelRanks::records() {
  std::vector<RankRecord> all = records_;
  orders_.ask_for_records();
  orders_.await_answers([&](MessageReader& answer) {
    std::vector<RankRecord> theirs;
    answer.get_all(theirs);
    all.insert(all.end(), theirs.begin(), theirs.end());
  });
  return all;
}

void ModelRanks::copy_pages(int from, int to, int count) {
  orders_.copy_pages(from, to, count);
  for (const auto& instance : instances_) instance->cache().copy_pages(from, to, count);
}

}  // namespace fathom
