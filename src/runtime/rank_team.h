// RankTeam: the ranks of one attention group in this process, each with a thread, a share of the
// processors and a link to the others. run() gets what the ranks compute. World: the link of the
// ranks of all groups.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/thread_pool.h"
#include "comm/comm.h"
#include "comm/process_link.h"
#include "runtime/compute_plan.h"
#include "runtime/thread_team.h"

namespace fathom {

// What the ranks of all groups share; empty for a plan with one group.
struct World {
  explicit World(const ComputePlan& plan);
  std::unique_ptr<ProcessLink> link;  // to the other processes of the plan, if there are any
  std::shared_ptr<CommGroup> group;
};

// Thread-compatible: run() is always called from the thread that made the team, which is rank 0's.
class RankTeam {
 public:
  // Uses the plan's device, layout, threads and `observed`; the layout's rank says which group. On
  // GPUs each thread uses the GPU of its rank. `all` links the ranks of all groups, if there are
  // several.
  explicit RankTeam(const ComputePlan& plan, CommGroup* all = nullptr);

  int size() const { return static_cast<int>(pools_.size()); }
  // Returns the plan of this process's i-th rank in the group.
  ComputePlan plan_of(int i) const;
  ThreadPool& pool(int rank) { return *pools_[static_cast<size_t>(rank)]; }
  CommGroup* comm() { return comm_.get(); }  // null for one rank a group

  // Calls body(rank) for all ranks of this process at once, each always on the same thread, and
  // returns when all have returned. `rank` counts from this process's first rank in the group. If
  // one throws, the exchanges of the others, in all processes, are aborted for good, and the first
  // cause is thrown as an Error.
  void run(const std::function<void(int rank)>& body);

 private:
  void prepare(int rank);
  void attempt(const std::function<void(int rank)>& body, int rank);
  std::string name_of(int rank) const;  // for messages

  const ComputePlan plan_;
  std::unique_ptr<ProcessLink> link_;  // of the processes that the group lies in, if several
  std::shared_ptr<CommGroup> comm_;
  CommGroup* all_;
  std::vector<std::unique_ptr<ThreadPool>> pools_;
  std::mutex mutex_;
  std::string cause_;   // of the first failure
  ThreadTeam threads_;  // ends first: the threads use what is above
};

}  // namespace fathom
