// TaskQueue: a few threads that run small tasks in the background.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace fathom {

// Tasks start in the order in which they were posted. They must not throw. The destructor runs the
// tasks that are left, so everybody who waits for a task's result gets it.
class TaskQueue {
 public:
  explicit TaskQueue(int threads);
  ~TaskQueue();
  TaskQueue(const TaskQueue&) = delete;
  TaskQueue& operator=(const TaskQueue&) = delete;

  // May be called from any thread, also by a task. Once the destructor has begun, only tasks may.
  void post(std::function<void()> task);

 private:
  void work();

  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace fathom
