// RankTeam: the ranks of one process, each with a thread, a share of the processors and a link to
// the others. What the ranks compute is handed to run().
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "comm/comm.h"
#include "runtime/compute_plan.h"

namespace fathom {

// Thread-compatible: run() is always called from the thread that made the team, which is rank 0's.
class RankTeam {
 public:
  // Of the plan device, layout and threads count. Throws Error where the device has no ranks.
  explicit RankTeam(const ComputePlan& plan);

  int size() const { return static_cast<int>(pools_.size()); }
  // The plan of one rank.
  ComputePlan plan_of(int rank) const;
  ThreadPool& pool(int rank) { return *pools_[static_cast<size_t>(rank)]; }
  CommGroup* comm() { return comm_.get(); }  // null for one rank

  // Calls body(rank) for all ranks at once, each always on the same thread, and returns when all
  // have returned. If one throws, the exchange of the others is broken off, for good, and the first
  // cause is thrown as an Error.
  void run(const std::function<void(int rank)>& body);

 private:
  void attempt(const std::function<void(int rank)>& body, int rank);

  const ComputePlan plan_;
  std::shared_ptr<CommGroup> comm_;
  ThreadPool threads_;  // one a rank
  std::vector<std::unique_ptr<ThreadPool>> pools_;
  std::mutex mutex_;
  std::string cause_;  // of the first failure
};

}  // namespace fathom
