// GroupedEngine: data parallelism. Several groups of ranks compute different sequences. Each group
// has its own Engine, with scheduler, pages and kept prompts. The routed experts are spread over
// all groups, so all groups take their steps together. A group without work still computes its
// experts for the others. The groups may lie in several processes: all engines are in process 0,
// and give orders to the ranks elsewhere.
//
// A request belongs to one group. It is the group that has had the longest beginning of its prompt,
// if that group has a free place, else the group with the fewest requests.
#pragma once

#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "cache/page_key.h"
#include "runtime/engine.h"
#include "runtime/orders.h"
#include "runtime/rank_team.h"
#include "runtime/thread_team.h"

namespace fathom {

// Remembers which group was given a text, by the keys of its pages. Keeps about the latest kMost
// keys. Thread-safe.
class GroupChoice {
 public:
  // Returns the group of the longest known beginning of `keys`; -1 if none is known.
  int known(std::span<const PageKey> keys) const;
  void note(std::span<const PageKey> keys, int group);

 private:
  static constexpr size_t kMost = 1 << 17;
  mutable std::mutex mutex_;
  // Two generations: when the newer is full, the older is dropped.
  std::unordered_map<PageKey, int, PageKeyHash> newer_, older_;
};

class GroupedEngine final : public ModelEngine {
 public:
  // `weights`: of every rank of this process. Each group gets the options' sequences, and as many
  // pages as the memory has room for. Config and weights must outlive the engine.
  GroupedEngine(const Config& config, const RankWeights& weights, const EngineOptions& options);
  ~GroupedEngine() override;

  Result<RequestId> submit(Request request) override;
  void cancel(RequestId id) override;
  EngineSnapshot snapshot() const override;
  std::vector<EngineSnapshot> group_snapshots() const override;
  int64_t context() const override { return engines_[0]->context(); }
  const MemoryPlan& memory() const override { return memory_; }
  PrefixStoreStats cache_dir_stats() const override;
  bool step() override;
  void run(const std::stop_token& stop) override;
  std::string describe() const override;
  EngineStats stats() const override;
  void check_integrity() const override;

  int groups() const { return static_cast<int>(engines_.size()); }
  const Engine& group(int g) const { return *engines_[static_cast<size_t>(g)]; }

 private:
  EngineOptions options_of(int group, int64_t available);
  RankWeights weights_of(int group, const RankWeights& weights) const;
  int choose(std::span<const PageKey> keys) const;
  bool step_group(int group);
  void fail(int group, const std::string& why);
  void wake();

  const EngineOptions options_;
  const World world_;
  std::vector<std::unique_ptr<GroupChannel>> channels_;  // with several processes
  std::vector<std::unique_ptr<Engine>> engines_;
  MemoryPlan memory_;  // of all groups together
  GroupChoice choice_;
  std::mutex report_mutex_;  // on_step is called by one group at a time
  ThreadTeam threads_;       // one a group

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable_any wakes_;
  bool news_ = false;
  std::string cause_;  // of the first failure
};

// Makes the engine that the options' layout needs.
std::unique_ptr<ModelEngine> make_engine(const Config& config, const RankWeights& weights,
                                         const EngineOptions& options);

}  // namespace fathom
