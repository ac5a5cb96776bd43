// A fixed team of threads for data-parallel loops. The caller is thread 0.
//
// The caller cuts the work into pieces whose results do not depend on the thread that computes
// them. The summation order of the kernels does not depend on the cut, so results are bit-equal for
// any thread count.
//
// After a loop the workers spin for a short while (a decode step has hundreds of loops), then they
// sleep. When other programs run, the system may give a worker no processor for milliseconds. So a
// loop never waits for a worker that has not begun: the caller computes that worker's share itself.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace fathom {

// Non-owning reference to a callable: a loop body is never copied to the heap.
class LoopBody {
 public:
  template <class F>
  LoopBody(const F& f)
      : object_(&f), call_([](const void* o, int64_t begin, int64_t end, int thread) {
          (*static_cast<const F*>(o))(begin, end, thread);
        }) {}
  void operator()(int64_t begin, int64_t end, int thread) const {
    call_(object_, begin, end, thread);
  }

 private:
  const void* object_;
  void (*call_)(const void*, int64_t, int64_t, int);
};

// Thread-compatible: one loop at a time, always from the same caller thread.
class ThreadPool {
 public:
  // threads <= 0: as many as usable_processors().
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(begin, end, thread) with [0, items) cut into one contiguous range per thread, each a
  // multiple of `grain` but the last. `thread` is the number of the thread that makes the call. No
  // two calls have the same number at the same time, but one thread may get several ranges. If
  // there is only one grain, the caller runs it.
  void parallel_for(int64_t items, int64_t grain, LoopBody body);

  // As above, but ranges of `grain` items are handed out as threads become free. Use where items
  // differ in cost and the result of an item does not depend on who computes it.
  void parallel_dynamic(int64_t items, int64_t grain, LoopBody body);

 private:
  struct Job {
    const LoopBody* body = nullptr;
    int64_t items = 0, grain = 1;
    bool dynamic = false;
  };
  // How far a worker is: 2 g while it runs its share of loop g; 2 g + 1 when it has finished the
  // share, or when the caller has taken it over.
  struct alignas(64) Worker {
    std::atomic<uint64_t> state{0};
    std::thread thread;
  };
  void work(int thread);
  void run_share(const Job& job, int share, int thread);
  void launch(const Job& job);
  // Takes the shares of workers that have not begun loop `generation`, and waits for the others.
  void finish(const Job& job, uint64_t generation);

  int spins_ = 0;                // before a waiting thread gives up its processor
  std::vector<Worker> workers_;  // of thread 1, 2, ...
  Job job_;
  alignas(64) std::atomic<uint64_t> generation_{0};
  alignas(64) std::atomic<int64_t> next_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
};

// Returns Processors::threads() of this process (base/processors.h).
int usable_processors();

}  // namespace fathom
