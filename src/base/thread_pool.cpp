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

ThreadPool::ThreadPool(int threads)
    : workers_(static_cast<size_t>((threads > 0 ? threads : usable_processors()) - 1)) {
  const Processors processors = find_processors();
  // With more threads than processors a spinning one keeps a working one from its processor.
  spins_ = size() > processors.at_once() ? 0 : kSpins;
  for (int t = 1; t < size(); ++t)
    workers_[static_cast<size_t>(t - 1)].thread = std::thread([this, t] { work(t); });
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  {
    std::lock_guard lock(mutex_);
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  for (Worker& worker : workers_) worker.thread.join();
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
  const uint64_t generation = generation_.fetch_add(1, std::memory_order_seq_cst) + 1;
  if (sleepers_.load(std::memory_order_seq_cst) > 0) {
    { std::lock_guard lock(mutex_); }  // a worker about to sleep has now seen the new generation
    wake_.notify_all();
  }
  run_share(job, 0, 0);
  finish(job, generation);
}

void ThreadPool::finish(const Job& job, uint64_t generation) {
  const uint64_t done = 2 * generation + 1;
  for (size_t i = 0; i < workers_.size(); ++i) {
    uint64_t state = workers_[i].state.load(std::memory_order_acquire);
    const bool taken = state < done - 1 && workers_[i].state.compare_exchange_strong(
                                               state, done, std::memory_order_acq_rel);
    if (taken && !job.dynamic) run_share(job, static_cast<int>(i) + 1, 0);
  }
  int spin = 0;
  for (Worker& worker : workers_)
    for (; worker.state.load(std::memory_order_acquire) != done; ++spin) {
      if (spin < spins_) {
        pause_briefly();
      } else {
        std::this_thread::yield();  // let the worker have a processor
      }
    }
}

void ThreadPool::run_share(const Job& job, int share, int thread) {
  if (job.dynamic) {
    for (;;) {
      int64_t begin = next_.fetch_add(job.grain, std::memory_order_relaxed);
      if (begin >= job.items) return;
      (*job.body)(begin, std::min(begin + job.grain, job.items), thread);
    }
  }
  int64_t grains = (job.items + job.grain - 1) / job.grain;
  int64_t begin = grains * share / size() * job.grain;
  int64_t end = std::min(grains * (share + 1) / size() * job.grain, job.items);
  if (begin < end) (*job.body)(begin, end, thread);
}

void ThreadPool::work(int thread) {
  std::atomic<uint64_t>& state = workers_[static_cast<size_t>(thread - 1)].state;
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
    // job_ is the loop's own from here to the end of the share; before, the caller may be past it.
    uint64_t before = state.load(std::memory_order_relaxed);
    if (before >= 2 * seen ||
        !state.compare_exchange_strong(before, 2 * seen, std::memory_order_acq_rel))
      continue;
    run_share(job_, thread, thread);
    state.store(2 * seen + 1, std::memory_order_release);
  }
}

}  // namespace fathom
