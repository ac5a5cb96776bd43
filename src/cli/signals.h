// Signals that ask the program to end, as events.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <thread>

namespace fathom::cli {

// While it exists, a thread of its own receives SIGINT and SIGTERM. Make it before any other thread
// starts: threads inherit the set of blocked signals, and a signal may go to any thread that does
// not block it.
class EndSignals {
 public:
  EndSignals();
  ~EndSignals();
  EndSignals(const EndSignals&) = delete;
  EndSignals& operator=(const EndSignals&) = delete;

  // From now on `on_signal` is called for each signal, with its count: 1, 2, ... Before the first
  // call, and while `on_signal` is empty, a signal ends the program as usual. Waits for an earlier
  // callback that is running, so that what it uses may be destroyed when this returns.
  void listen(std::function<void(int count)> on_signal);
  // Whether the last signal came from the process that started this one.
  bool sent_by_parent() const { return sent_by_parent_; }

 private:
  void wait();

  std::mutex mutex_;  // guards what follows
  std::function<void(int)> on_signal_;
  bool over_ = false;
  std::atomic<bool> sent_by_parent_{false};

  std::thread thread_;
};

}  // namespace fathom::cli
