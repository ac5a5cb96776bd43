#include "convert/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>

#include "convert/piece_loop.h"

namespace fathom {
namespace {

TEST(Progress, TimesReadWell) {
  EXPECT_EQ(time_text(0), "0:00");
  EXPECT_EQ(time_text(65.2), "1:05");
  EXPECT_EQ(time_text(3723), "1:02:03");
}

TEST(Progress, LineShowsShareRateAndTimeLeft) {
  EXPECT_EQ(progress_line("convert", 250'000'000, 1'000'000'000, 50e6, 8),
            "convert [==      ]  25 %  238 MiB of 954 MiB  50.0 MB/s  0:15 left");
  EXPECT_EQ(progress_line("convert", 0, 10, 0, 0),
            "convert   0 %  0 bytes of 10 bytes  0.0 B/s  -:-- left");
}

TEST(Progress, ShortRunsAreQuiet) {
  ::testing::internal::CaptureStderr();
  {
    Progress p("convert", 100);
    p.update(10);
    p.update(100);
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

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
