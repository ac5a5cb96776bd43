// LoadProgress: one count of the bytes that all ranks of all processes load at the same time.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "comm/process_link.h"

namespace fathom {

// Of all processes together.
struct Loaded {
  int64_t done = 0, total = 0;  // bytes
};

// Every process of the link has one at the same time. add() may be called from any thread.
class LoadProgress {
 public:
  // `total`: bytes that the ranks of this process load. `link`: to the other processes, or null.
  // Process 0 calls `show` now and then, on a thread of its own.
  LoadProgress(ProcessLink* link, int64_t total, std::function<void(const Loaded&)> show);
  // Without finish() it tells the other processes that this one has failed.
  ~LoadProgress();
  LoadProgress(const LoadProgress&) = delete;
  LoadProgress& operator=(const LoadProgress&) = delete;

  void add(int64_t bytes) { done_ += bytes; }
  // Call it when this process has loaded all. Returns when all processes have; the result is
  // complete in process 0. Throws ExchangeEnded when one has failed.
  Loaded finish();

 private:
  void lead();
  void follow();
  bool all_have_finished(Loaded& sum);  // asks the others, and adds what they say to `sum`
  void end();

  ProcessLink* const link_;  // null for one process
  const std::unique_ptr<ProcessLink> channel_;
  const int64_t total_;
  const std::function<void(const Loaded&)> show_;
  std::atomic<int64_t> done_{0};
  Loaded all_;
  std::mutex mutex_;
  std::condition_variable wakes_;
  bool finished_ = false;  // this process's part, or the use of this object
  std::thread thread_;
};

}  // namespace fathom
