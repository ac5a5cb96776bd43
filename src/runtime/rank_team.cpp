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
    return p.link ? make_nccl_group(p.link, p.layout.tensor) : make_gpu_group(p.layout.tensor);
  if (p.link) return make_process_group(*p.link, p.layout.tensor);
  return make_thread_group(p.layout.tensor);
}

// Looks for a short while, as a step follows a step, and then sleeps.
template <class T, class Until>
void await(const std::atomic<T>& value, const Until& until) {
  constexpr int kLooks = 2000;
  for (int look = 0;; ++look) {
    const T now = value.load(std::memory_order_acquire);
    if (until(now)) return;
    if (look < kLooks)
      std::this_thread::yield();
    else
      value.wait(now, std::memory_order_acquire);
  }
}

}  // namespace

RankTeam::RankTeam(const ComputePlan& plan, CommGroup* all)
    : plan_(plan), comm_(group_of(plan)), all_(all) {
  pools_.resize(static_cast<size_t>(plan.layout.tensor / plan.layout.processes));
  for (int rank = 1; rank < size(); ++rank) threads_.emplace_back([this, rank] { work(rank); });
  try {
    run([&](int rank) { prepare(rank); });
  } catch (...) {
    end();
    throw;
  }
}

void RankTeam::prepare(int rank) {
  const RankLayout own = plan_of(rank).layout;
  if (own.ranks() > 1 && plan_.device == DeviceKind::cuda) use_gpu(own.place_here());
  // The threads of a pool stay where the thread that makes it may run.
  if (own.ranks_here() > 1 && plan_.device == DeviceKind::cpu)
    bind_thread_to_node(own.place_here(), own.ranks_here());
  pools_[static_cast<size_t>(rank)] = std::make_unique<ThreadPool>(threads_of_rank(plan_of(rank)));
}

RankTeam::~RankTeam() { end(); }

void RankTeam::end() {
  stop_ = true;
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  for (std::thread& t : threads_) t.join();
}

ComputePlan RankTeam::plan_of(int i) const {
  ComputePlan p = plan_;
  p.layout = p.layout.at(p.layout.group() * p.layout.tensor + p.layout.process * size() + i);
  return p;
}

void RankTeam::run(const std::function<void(int)>& body) {
  if (!comm_) return body(0);
  body_ = &body;
  running_.store(size() - 1, std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  attempt(body, 0);
  await(running_, [](int running) { return running == 0; });
  std::lock_guard lock(mutex_);
  if (cause_.empty()) return;
  if (plan_.link) plan_.link->fail(cause_);
  throw Error(cause_);
}

void RankTeam::work(int rank) {
  for (uint64_t seen = 0;;) {
    await(round_, [&](uint64_t round) { return round != seen; });
    ++seen;
    if (stop_) return;
    attempt(*body_, rank);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
  }
}

void RankTeam::attempt(const std::function<void(int)>& body, int rank) {
  std::string what;
  try {
    return body(rank);
  } catch (const ExchangeEnded& e) {
    what = e.what();  // another rank's failure
  } catch (const std::exception& e) {
    const RankLayout own = plan_of(rank).layout;
    what = fmt::format("rank {} of {}: {}", own.rank, own.ranks(), e.what());
  }
  {
    std::lock_guard lock(mutex_);
    if (cause_.empty()) cause_ = what;
  }
  comm_->abort(what);
  if (all_) all_->abort(what);
}

}  // namespace fathom
