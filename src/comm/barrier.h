// Where the ranks of one process meet. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>

#include "base/thread_pool.h"
#include "comm/comm.h"

namespace fathom {

class Barrier {
 public:
  explicit Barrier(int ranks) : ranks_(ranks), spins_(ranks <= usable_processors() ? kSpins : 0) {}

  // Returns when every rank has called it.
  void wait() {
    const uint64_t round = round_.load(std::memory_order_acquire);
    check();
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == ranks_) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.fetch_add(1, std::memory_order_release);
      round_.notify_all();
      return;
    }
    for (int spin = 0; round_.load(std::memory_order_acquire) == round; ++spin) {
      if (spin < spins_)
        pause_briefly();
      else
        round_.wait(round, std::memory_order_acquire);
    }
    check();
  }

  // Throws ExchangeEnded once the ranks have been told to give up.
  void check() {
    if (!aborted_.load(std::memory_order_acquire)) return;
    std::lock_guard lock(mutex_);
    throw ExchangeEnded(why_);
  }

  // Ends every wait, now and later. The first reason stays.
  void abort(const std::string& why) {
    {
      std::lock_guard lock(mutex_);
      if (aborted_) return;
      why_ = why;
      aborted_ = true;
    }
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
  }

 private:
  // Before a waiting rank gives its processor away: longer than ranks are usually apart.
  static constexpr int kSpins = 4000;

  static void pause_briefly() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  const int ranks_, spins_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint64_t> round_{0};
  std::atomic<bool> aborted_{false};
  std::mutex mutex_;
  std::string why_;
};

}  // namespace fathom
