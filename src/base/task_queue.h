// A few threads for small tasks that nobody should wait for in line.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace fathom {

// Tasks start in the order they are posted in. They must not throw. The destructor runs what is
// left, so that whoever waits for a task's result gets it.
class TaskQueue {
 public:
  explicit TaskQueue(int threads);
  ~TaskQueue();
  TaskQueue(const TaskQueue&) = delete;
  TaskQueue& operator=(const TaskQueue&) = delete;

  // From any thread, a task's own included, but not once the destructor has begun (but by tasks).
  void post(std::function<void()> task);

 private:
  void work();

  std::mutex mutex_;  // of what follows
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace fathom
