#include "runtime/rank_team.h"

#include "base/error.h"
#include "base/numa.h"
#include "comm/process_link.h"
#include "kernels/gpu.h"
#include "kernels/nccl.h"

namespace fathom {
namespace {

std::shared_ptr<CommGroup> group_of(const ComputePlan& p) {
  if (p.layout.tensor == 1) return nullptr;
  // What an observed GPU works on is memory of the host, too, and complete after every op.
  if (p.device == DeviceKind::cuda && !p.observed)
    return p.link ? make_nccl_group(p.link, p.layout.tensor)
                  : make_gpu_group(p.layout.tensor, p.layout.group() * p.layout.tensor);
  if (p.link) return make_process_group(*p.link, p.layout.tensor);
  return make_thread_group(p.layout.tensor);
}

}  // namespace

RankTeam::RankTeam(const ComputePlan& plan, CommGroup* all)
    : plan_(plan),
      comm_(group_of(plan)),
      all_(all),
      pools_(static_cast<size_t>(plan.layout.tensor / plan.layout.processes)),
      threads_(plan.layout.tensor / plan.layout.processes, /*with_caller=*/true) {
  run([&](int rank) { prepare(rank); });
}

void RankTeam::prepare(int rank) {
  const RankLayout own = plan_of(rank).layout;
  if (own.ranks() > 1 && plan_.device == DeviceKind::cuda) use_gpu(own.place_here());
  // The threads of a pool stay where the thread that makes it may run.
  if (own.ranks_here() > 1 && plan_.device == DeviceKind::cpu)
    bind_thread_to_node(own.place_here(), own.ranks_here());
  pools_[static_cast<size_t>(rank)] = std::make_unique<ThreadPool>(threads_of_rank(plan_of(rank)));
}

ComputePlan RankTeam::plan_of(int i) const {
  ComputePlan p = plan_;
  p.layout = p.layout.at(p.layout.group() * p.layout.tensor + p.layout.process * size() + i);
  return p;
}

void RankTeam::run(const std::function<void(int)>& body) {
  if (plan_.layout.ranks() == 1) return body(0);
  threads_.run([&](int rank) { attempt(body, rank); });
  std::lock_guard lock(mutex_);
  if (cause_.empty()) return;
  if (plan_.link) plan_.link->fail(cause_);
  throw Error(cause_);
}

std::string RankTeam::name_of(int rank) const {
  const RankLayout own = plan_of(rank).layout;
  return fmt::format("rank {} of {}: ", own.rank, own.ranks());
}

void RankTeam::attempt(const std::function<void(int)>& body, int rank) {
  std::string what;
  try {
    return body(rank);
  } catch (const ExchangeEnded& e) {
    what = e.what();  // another rank's failure
  } catch (const std::bad_alloc&) {
    what = name_of(rank) + "out of memory";
  } catch (const std::exception& e) {
    what = name_of(rank) + e.what();
  }
  {
    std::lock_guard lock(mutex_);
    if (cause_.empty()) cause_ = what;
  }
  if (comm_) comm_->abort(what);
  if (all_) all_->abort(what);
}

}  // namespace fathom
