// RunnerFollower: the ranks that this process has of one group of an engine. They take the steps
// that process 0 orders.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "runtime/first_layers.h"
#include "runtime/orders.h"
#include "runtime/ranked_runner.h"

namespace fathom {

// What Order::open_engine says.
struct EngineOrder {
  bool with_mtp = false;
  int index_topk = 0, layers = 0, dense_layers = 0;
  RunnerSetup setup;  // without a config, weights and links
};
EngineOrder read_engine_order(MessageReader& message, ProcessLink& link);

class RunnerFollower {
 public:
  // Answers when it is ready. `config` is the whole model's; `link` leads to process 0, and
  // `weights`, of the group's ranks here, must outlive this object, as must `all` (RankLinks).
  RunnerFollower(const Config& config, const EngineOrder& order, const RankWeights& weights,
                 ProcessLink& link, CommGroup* all = nullptr);

  void carry_out(Order order, MessageReader& message);

 private:
  void launch(MessageReader& message);
  void finish();
  void draft(MessageReader& message);
  void read_page(MessageReader& message);
  void begin_answer();

  const Config config_;
  const FirstLayers weights_;
  ProcessLink& link_;
  // Process 0 has no rank of the group, and takes the results of this process.
  const bool answers_;
  StepBatch batch_;
  std::unique_ptr<RankedRunner> runner_;
  // Contents of the last orders and answers.
  MessageWriter answer_;
  std::array<std::vector<Draw>, 2> draws_;  // of the steps in flight
  uint64_t launched_ = 0, finished_ = 0;
  std::vector<CarriedId> carried_;
  std::vector<Result<int32_t>> tokens_;
  std::vector<DraftRun> runs_;
  struct RunContents {
    std::vector<int32_t> next_ids, pages, drafts;
  };
  std::vector<RunContents> contents_;  // of those runs
  std::vector<std::byte> bytes_;
};

}  // namespace fathom
