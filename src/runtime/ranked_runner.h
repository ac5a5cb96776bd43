// RankedRunner: the engine's steps on several ranks. Each rank has a runner of its own, with its
// weights and its cache. All of them take the same step on a copy of the same batch, and rank 0's
// results are used. The engine sees one runner. If the plan has several processes, process 0's
// RankedRunner has counterparts in the others that take the same steps.
#pragma once

#include <memory>
#include <vector>

#include "runtime/orders.h"
#include "runtime/rank_team.h"
#include "runtime/step_runner.h"

namespace fathom {

class RankedRunner final : public StepRunner {
 public:
  // `setup` is the whole model's; its config and the weights, of the ranks of this process, must
  // outlive the runner.
  RankedRunner(const RunnerSetup& setup, const RankWeights& weights);

  void launch(StepBatch& batch, std::span<const Draw> draws,
              std::span<const CarriedId> carried) override;
  void finish(std::vector<Result<int32_t>>& tokens) override;
  // All ranks have the same logits, so each makes the same drafts for its own next pass.
  void draft(std::span<const DraftRun> runs) override;
  void copy_pages(int from, int to, int count) override;
  int steps_at_once() const override { return runners_[0]->steps_at_once(); }
  bool took_usual_time() const override { return runners_[0]->took_usual_time(); }
  std::span<const float> logits(int row) const override { return runners_[0]->logits(row); }
  std::span<const int32_t> picked(int row, int layer) const override {
    return runners_[0]->picked(row, layer);
  }
  std::string describe() const override;
  int64_t cache_bytes() const override;
  int64_t page_bytes() const;
  // Every rank keeps the same rows.
  void read_page(int32_t page, std::byte* to) override { runners_[0]->read_page(page, to); }
  void write_page(int32_t page, const std::byte* from) override;

 private:
  const Config rank_config_;
  const ComputePlan plan_;
  Orders orders_;
  RankTeam team_;
  std::vector<std::unique_ptr<StepRunner>> runners_;  // by rank of this process
  std::vector<StepBatch> batches_;  // by rank: a copy of the batch, which the runner may pad
  std::vector<std::vector<Result<int32_t>>> finished_;  // by rank: the results
  struct RankDrafts {
    std::vector<DraftRun> runs;
    std::vector<std::vector<int32_t>> drafts;  // of each run
  };
  std::vector<RankDrafts> drafts_;  // by rank; the first rank uses the caller's
};

}  // namespace fathom
