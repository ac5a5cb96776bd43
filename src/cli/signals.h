// Signals that ask the program to end, as events.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <thread>

namespace fathom::cli {

// While it lives, SIGINT and SIGTERM are taken by a thread of its own. Make it before any other
// thread starts: threads inherit what they leave alone, and a signal goes to any that does not.
class EndSignals {
 public:
  EndSignals();
  ~EndSignals();
  EndSignals(const EndSignals&) = delete;
  EndSignals& operator=(const EndSignals&) = delete;

  // `on_signal` is called for each signal from here on, with its count: 1, 2, ... Before that, and
  // while it is empty, a signal ends the program as it would without this object. Waits for an
  // earlier callback that is running: what it used may go when this returns.
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
