#include "runtime/thread_team.h"

namespace fathom {
namespace {

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

ThreadTeam::ThreadTeam(int size, bool with_caller) : size_(size), first_(with_caller ? 1 : 0) {
  for (int member = first_; member < size; ++member)
    threads_.emplace_back([this, member] { work(member); });
}

ThreadTeam::~ThreadTeam() {
  stop_ = true;
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  for (std::thread& t : threads_) t.join();
}

void ThreadTeam::run(const std::function<void(int)>& body) {
  body_ = &body;
  running_.store(size_ - first_, std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  if (first_ == 1) body(0);
  await(running_, [](int running) { return running == 0; });
}

void ThreadTeam::work(int member) {
  for (uint64_t seen = 0;;) {
    await(round_, [&](uint64_t round) { return round != seen; });
    ++seen;
    if (stop_) return;
    (*body_)(member);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
  }
}

}  // namespace fathom
