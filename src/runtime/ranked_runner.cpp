#include "runtime/ranked_runner.h"

#include "base/check.h"

namespace fathom {

RankedRunner::RankedRunner(const RunnerSetup& setup, const RankWeights& weights)
    : rank_config_(config_of_rank(*setup.config, setup.compute.layout)),
      plan_(setup.compute),
      orders_(setup.orders ? setup.orders : setup.compute.link,
              Followers::of(setup.compute.layout, setup.compute.layout.group())),
      team_(setup.compute, setup.links.all) {
  FATHOM_CHECK(weights.size() == team_.size(), "weights of {} ranks for {}", weights.size(),
               team_.size());
  const auto ranks = static_cast<size_t>(team_.size());
  runners_.resize(ranks);
  finished_.resize(ranks);
  drafts_.resize(ranks);
  batches_.assign(ranks,
                  StepBatch(setup.compute.step_tokens, step_sequences(setup.compute.sequences),
                            static_cast<int>(pages_for(setup.compute.context))));
  orders_.open_engine(setup);
  team_.run([&](int rank) {
    RunnerSetup own = setup;
    own.config = &rank_config_;
    own.weights = &weights[rank];
    own.compute = team_.plan_of(rank);
    own.links.group = team_.comm();
    runners_[static_cast<size_t>(rank)] = make_step_runner(own, team_.pool(rank));
  });
  orders_.wait_until_open();
}

void RankedRunner::launch(StepBatch& batch, std::span<const Draw> draws,
                          std::span<const CarriedId> carried) {
  orders_.launch(batch, draws, carried);
  for (StepBatch& copy : batches_) copy = batch;
  team_.run([&](int rank) {
    const auto r = static_cast<size_t>(rank);
    runners_[r]->launch(batches_[r], draws, carried);
  });
}

void RankedRunner::finish(std::vector<Result<int32_t>>& tokens) {
  orders_.finish();
  team_.run([&](int rank) {
    const auto r = static_cast<size_t>(rank);
    runners_[r]->finish(finished_[r]);
  });
  tokens = finished_[0];
}

void RankedRunner::draft(std::span<const DraftRun> runs) {
  orders_.draft(runs);
  for (size_t r = 1; r < drafts_.size(); ++r) {
    RankDrafts& own = drafts_[r];
    own.runs.assign(runs.begin(), runs.end());
    own.drafts.clear();
    for (const DraftRun& run : runs) own.drafts.push_back(*run.drafts);
    for (size_t i = 0; i < runs.size(); ++i) own.runs[i].drafts = &own.drafts[i];
  }
  team_.run([&](int rank) {
    const auto r = static_cast<size_t>(rank);
    runners_[r]->draft(rank == 0 ? runs : std::span<const DraftRun>(drafts_[r].runs));
  });
}

void RankedRunner::copy_pages(int from, int to, int count) {
  orders_.copy_pages(from, to, count);
  team_.run([&](int rank) { runners_[static_cast<size_t>(rank)]->copy_pages(from, to, count); });
}

std::string RankedRunner::describe() const {
  return fmt::format("{}: {}", plan_.layout.describe(), runners_[0]->describe());
}

int64_t RankedRunner::cache_bytes() const {
  int64_t bytes = 0;
  for (const auto& r : runners_) bytes += r->cache_bytes();
  return bytes;
}

int64_t RankedRunner::page_bytes() const { return kv_shape(rank_config_, plan_).bytes_per_page(); }

void RankedRunner::write_page(int32_t page, const std::byte* from) {
  orders_.write_page(page, {from, static_cast<size_t>(page_bytes())});
  team_.run([&](int rank) { runners_[static_cast<size_t>(rank)]->write_page(page, from); });
}

}  // namespace fathom
