#include "convert/piece_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>

namespace fathom {
namespace {

TEST(PieceLoop, DoesEveryPieceOnceAndNeverReportsAnUnfinishedOne) {
  std::mutex mutex;
  std::set<uint64_t> finished;
  uint64_t reported = 0;
  PieceLoop loop;
  loop.first = 10;
  loop.count = 400;
  loop.threads = 4;
  loop.work = [&](uint64_t i, int) {
    std::this_thread::sleep_for(std::chrono::milliseconds(i % 8));
    std::lock_guard lock(mutex);
    EXPECT_TRUE(finished.insert(i).second) << i;
  };
  loop.watch = [&](uint64_t done) {
    std::lock_guard lock(mutex);
    EXPECT_GE(done, reported);
    for (uint64_t i = 10; i < done; ++i) ASSERT_TRUE(finished.count(i)) << i << " of " << done;
    reported = done;
  };
  run_pieces(loop);
  EXPECT_EQ(finished.size(), 390u);
  EXPECT_EQ(reported, 400u);
}

TEST(PieceLoop, StopsAtTheFirstErrorAndPassesItOn) {
  std::atomic<int> begun{0};
  PieceLoop loop;
  loop.count = 1'000'000;
  loop.threads = 3;
  loop.work = [&](uint64_t i, int) {
    ++begun;
    if (i == 50) throw std::runtime_error("disk on fire");
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  };
  EXPECT_THROW(run_pieces(loop), std::runtime_error);
  EXPECT_LT(begun, 100'000);
}

}  // namespace
}  // namespace fathom
