// ThreadTeam: a few threads that always do the same things at the same time. Not a ThreadPool: each
// member has a thread of its own (with its GPU, or its NUMA node), and all run at once, as they
// wait for each other.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace fathom {

// Thread-compatible: one run() at a time.
class ThreadTeam {
 public:
  // `with_caller`: member 0 is whoever calls run(), always the same thread then.
  ThreadTeam(int size, bool with_caller);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int size() const { return size_; }
  // Calls body(member) for all members at once, each always on the same thread, and returns when
  // all have returned. `body` may not throw.
  void run(const std::function<void(int member)>& body);

 private:
  void work(int member);

  const int size_, first_;  // member with a thread of the team's
  std::vector<std::thread> threads_;
  const std::function<void(int member)>* body_ = nullptr;
  std::atomic<uint64_t> round_{0};  // of run(), the end is one more
  std::atomic<int> running_{0};
  std::atomic<bool> stop_{false};
};

}  // namespace fathom
