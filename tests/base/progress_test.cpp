#include "base/progress.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace fathom
