#include "runtime/rank_team.h"

#include "base/check.h"
#include "base/error.h"
#include "base/numa.h"
#include "kernels/gpu.h"
#include "kernels/nccl.h"
#include "runtime/channels.h"

namespace fathom {
namespace {

// What an observed GPU works on is memory of the host, too, and complete after every op.
bool exchange_on_gpus(const ComputePlan& p) { return p.device == DeviceKind::cuda && !p.observed; }

std::unique_ptr<ProcessLink> link_of(const ComputePlan& p) {
  const RankLayout& l = p.layout;
  if (!p.link || l.group_processes() == 1) return nullptr;
  return p.link->part(l.first_process_of(l.group()), l.group_processes(),
                      exchange_channel(l.group()));
}

std::shared_ptr<CommGroup> group_of(const ComputePlan& p, ProcessLink* link) {
  const RankLayout& l = p.layout;
  if (l.tensor == 1) return nullptr;
  if (exchange_on_gpus(p))
    return link || p.exchange == GpuExchange::nccl
               ? make_nccl_group(link, l.tensor)
               : make_gpu_group(l.tensor, l.in_group(l.group()).place_here());
  if (link) return make_process_group(*link, l.tensor);
  return make_thread_group(l.tensor);
}

}  // namespace

World::World(const ComputePlan& p) {
  if (p.layout.data == 1) return;
  const int ranks = p.layout.ranks();
  if (p.link) link = p.link->part(0, p.layout.processes, kWorldChannel);
  if (exchange_on_gpus(p))
    group = link || p.exchange == GpuExchange::nccl ? make_nccl_group(link.get(), ranks)
                                                    : make_gpu_group(ranks);
  else
    group = link ? make_process_group(*link, ranks) : make_thread_group(ranks);
}

RankTeam::RankTeam(const ComputePlan& plan, CommGroup* all)
    : plan_(plan),
      link_(link_of(plan)),
      comm_(group_of(plan, link_.get())),
      all_(all),
      pools_(static_cast<size_t>(plan.layout.group_ranks_here())),
      threads_(plan.layout.group_ranks_here(), /*with_caller=*/true) {
  run([&](int rank) { prepare(rank); });
}

void RankTeam::prepare(int rank) {
  const RankLayout own = plan_of(rank).layout;
  if (own.ranks() > 1 && plan_.device == DeviceKind::cuda) use_gpu(own.place_here());
  // The threads of a pool stay where the thread that makes it may run.
  const Sharing with = plan_.link ? plan_.link->share().processors : Sharing{};
  const int parts = with.count * own.ranks_here();
  if (parts > 1 && plan_.device == DeviceKind::cpu)
    bind_thread_to_node(with.place * own.ranks_here() + own.place_here(), parts);
  pools_[static_cast<size_t>(rank)] = std::make_unique<ThreadPool>(threads_of_rank(plan_of(rank)));
}

ComputePlan RankTeam::plan_of(int i) const {
  ComputePlan p = plan_;
  const RankLayout first = p.layout.in_group(p.layout.group());
  p.layout = first.at(first.rank + i);
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
