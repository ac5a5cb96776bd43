#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace fathom {
namespace {

// Every item once, whatever the sizes, with fewer threads than processors and with many more.
TEST(ThreadPool, GivesOutEveryItemOnce) {
  for (int threads : {1, 2, 3, 16, 40}) {
    ThreadPool pool(threads);
    ASSERT_EQ(pool.size(), threads);
    for (int64_t items : {0, 1, 2, 15, 16, 17, 1000})
      for (int64_t grain : {1, 4, 7, 2000})
        for (bool dynamic : {false, true}) {
          std::vector<std::atomic<int>> times(static_cast<size_t>(items));
          auto body = [&](int64_t begin, int64_t end, int thread) {
            EXPECT_TRUE(0 <= thread && thread < threads);
            EXPECT_EQ(begin % grain, 0);
            for (int64_t i = begin; i < end; ++i) ++times[static_cast<size_t>(i)];
          };
          dynamic ? pool.parallel_dynamic(items, grain, body)
                  : pool.parallel_for(items, grain, body);
          for (const std::atomic<int>& t : times)
            ASSERT_EQ(t, 1) << threads << " threads, " << items << " by " << grain;
        }
  }
}

// A thread's number is what loops index their scratch memory with.
TEST(ThreadPool, ANumberBelongsToOneThreadAtATime) {
  constexpr int kThreads = 8;
  ThreadPool pool(kThreads);
  std::vector<std::atomic<int>> inside(kThreads);
  std::atomic<int> clashes{0};
  auto body = [&](int64_t, int64_t, int thread) {
    clashes += ++inside[static_cast<size_t>(thread)] != 1;
    std::this_thread::yield();
    --inside[static_cast<size_t>(thread)];
  };
  for (int round = 0; round < 500; ++round) {
    pool.parallel_for(kThreads, 1, body);
    pool.parallel_dynamic(3 * kThreads, 1, body);
  }
  EXPECT_EQ(clashes, 0);
}

// Loops one after the other, as short as they come: late workers must neither miss a loop that
// waits for them nor run one that is over.
TEST(ThreadPool, ShortLoopsFollowOneAnother) {
  ThreadPool pool(4);
  std::atomic<int64_t> sum{0};
  int64_t want = 0;
  for (int64_t loop = 1; loop <= 20000; ++loop) {
    pool.parallel_for(5, 1, [&](int64_t begin, int64_t end, int) { sum += (end - begin) * loop; });
    want += 5 * loop;
    ASSERT_EQ(sum, want);
  }
}

// What a worker that has not begun was to do, the caller does: with more threads than processors
// and shares this short it is done with its own before most workers wake.
TEST(ThreadPool, DoesTheSharesOfWorkersThatHaveNotBegun) {
  constexpr int kThreads = 40, kLoops = 200;
  ThreadPool pool(kThreads);
  int64_t by_caller = 0;
  for (int loop = 0; loop < kLoops; ++loop)
    pool.parallel_for(kThreads, 1, [&](int64_t begin, int64_t end, int thread) {
      if (thread == 0) by_caller += end - begin;
    });
  EXPECT_GT(by_caller, kLoops);
}

}  // namespace
}  // namespace fathom
