#include "runtime/rank_team.h"

#include "base/error.h"
#include "base/numa.h"

namespace fathom {
namespace {

std::shared_ptr<CommGroup> group_of(const ComputePlan& p) {
  if (p.layout.ranks() == 1) return nullptr;
  if (p.device == DeviceKind::cuda) fail("a model on several GPUs is not built yet");
  return make_thread_group(p.layout.ranks());
}

}  // namespace

RankTeam::RankTeam(const ComputePlan& plan)
    : plan_(plan), comm_(group_of(plan)), threads_(plan.layout.ranks()) {
  pools_.resize(static_cast<size_t>(plan.layout.ranks()));
  run([&](int rank) {
    // The threads of a pool stay where the thread that makes it may run.
    if (size() > 1 && plan_.device == DeviceKind::cpu) bind_thread_to_node(rank, size());
    pools_[static_cast<size_t>(rank)] =
        std::make_unique<ThreadPool>(threads_of_rank(plan_of(rank)));
  });
}

ComputePlan RankTeam::plan_of(int rank) const {
  ComputePlan p = plan_;
  p.layout = p.layout.at(rank);
  return p;
}

void RankTeam::run(const std::function<void(int)>& body) {
  if (size() == 1) return body(0);
  threads_.parallel_for(size(), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t rank = begin; rank < end; ++rank) attempt(body, static_cast<int>(rank));
  });
  std::lock_guard lock(mutex_);
  if (!cause_.empty()) throw Error(cause_);
}

void RankTeam::attempt(const std::function<void(int)>& body, int rank) {
  try {
    body(rank);
  } catch (const std::exception& e) {
    const std::string what = fmt::format("rank {} of {}: {}", rank, size(), e.what());
    {
      std::lock_guard lock(mutex_);
      if (cause_.empty()) cause_ = what;
    }
    comm_->abort(what);
  }
}

}  // namespace fathom
