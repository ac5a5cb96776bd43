#include "base/thread_pool.h"

#include <algorithm>

#include "base/processors.h"

namespace fathom {
namespace {

// Some 30 us on current machines: longer than most gaps between the ops of a step, and short enough
// that beside other processes a waiting thread soon gives its processor away.
constexpr int kSpins = 2000;

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

int usable_processors() { return find_processors().threads(); }

ThreadPool::ThreadPool(int threads) {
  const Processors processors = find_processors();
  if (threads <= 0) threads = processors.threads();
  // With more threads than processors a spinning one keeps a working one from its processor.
  spins_ = threads > processors.at_once() ? 0 : kSpins;
  for (int t = 1; t < threads; ++t) workers_.emplace_back([this, t] { work(t); });
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  {
    std::lock_guard lock(mutex_);
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::parallel_for(int64_t items, int64_t grain, LoopBody body) {
  if (items <= 0) return;
  if (workers_.empty() || items <= grain) return body(0, items, 0);
  launch(Job{&body, items, grain, false});
}

void ThreadPool::parallel_dynamic(int64_t items, int64_t grain, LoopBody body) {
  if (items <= 0) return;
  if (workers_.empty() || items <= grain) return body(0, items, 0);
  launch(Job{&body, items, grain, true});
}

void ThreadPool::launch(const Job& job) {
  job_ = job;
  next_.store(0, std::memory_order_relaxed);
  running_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) {
    { std::lock_guard lock(mutex_); }  // a worker about to sleep has now seen the new generation
    wake_.notify_all();
  }
  run_share(job, 0);
  for (int spin = 0; running_.load(std::memory_order_acquire) > 0; ++spin) {
    if (spin < spins_) {
      pause_briefly();
    } else {
      std::this_thread::yield();  // more threads than processors: let the last one finish
    }
  }
}

void ThreadPool::run_share(const Job& job, int thread) {
  if (job.dynamic) {
    for (;;) {
      int64_t begin = next_.fetch_add(job.grain, std::memory_order_relaxed);
      if (begin >= job.items) return;
      (*job.body)(begin, std::min(begin + job.grain, job.items), thread);
    }
  }
  int64_t grains = (job.items + job.grain - 1) / job.grain;
  int64_t begin = grains * thread / size() * job.grain;
  int64_t end = std::min(grains * (thread + 1) / size() * job.grain, job.items);
  if (begin < end) (*job.body)(begin, end, thread);
}

void ThreadPool::work(int thread) {
  uint64_t seen = 0;
  for (;;) {
    for (int spin = 0; generation_.load(std::memory_order_acquire) == seen; ++spin) {
      if (spin < spins_) {
        pause_briefly();
        continue;
      }
      std::unique_lock lock(mutex_);
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      wake_.wait(lock, [&] { return generation_.load(std::memory_order_seq_cst) != seen; });
      sleepers_.fetch_sub(1, std::memory_order_relaxed);
      break;
    }
    seen = generation_.load(std::memory_order_acquire);
    if (stop_) return;
    run_share(job_, thread);
    running_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace fathom
