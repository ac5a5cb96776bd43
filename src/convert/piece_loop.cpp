#include "convert/piece_loop.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace fathom {
namespace {

class Runner {
 public:
  explicit Runner(const PieceLoop& loop)
      : loop_(loop), next_(loop.first), at_(loop.threads), running_(loop.threads) {
    for (auto& at : at_) at = loop.first;
  }

  void run() {
    std::vector<std::thread> threads;
    threads.reserve(static_cast<size_t>(loop_.threads));
    for (int t = 0; t < loop_.threads; ++t) threads.emplace_back([this, t] { work(t); });
    try {
      watch();
    } catch (...) {
      keep_error();
    }
    for (std::thread& t : threads) t.join();
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void work(int thread) {
    try {
      while (!stop_) {
        // Announced before the piece is taken, so that the announced number is never above it.
        at_[thread] = next_.load();
        uint64_t i = next_++;
        if (i >= loop_.count) break;
        loop_.work(i, thread);
      }
      at_[thread] = loop_.count;
    } catch (...) {
      keep_error();  // `at_` stays: the failed piece is not done
    }
    std::lock_guard lock(mutex_);
    --running_;
    changed_.notify_all();
  }

  void watch() {
    std::unique_lock lock(mutex_);
    while (running_ > 0) {
      changed_.wait_for(lock, std::chrono::milliseconds(100), [&] { return running_ == 0; });
      if (!loop_.watch || error_) continue;
      lock.unlock();
      uint64_t done = loop_.count;
      for (auto& at : at_) done = std::min(done, at.load());
      loop_.watch(done);
      lock.lock();
    }
  }

  void keep_error() {
    std::lock_guard lock(mutex_);
    if (!error_) error_ = std::current_exception();
    stop_ = true;
  }

  const PieceLoop& loop_;
  std::atomic<uint64_t> next_;
  std::vector<std::atomic<uint64_t>> at_;  // by thread: a lower bound of the piece it is at
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  int running_;
  std::exception_ptr error_;
};

}  // namespace

void run_pieces(const PieceLoop& loop) { Runner(loop).run(); }

}  // namespace fathom
