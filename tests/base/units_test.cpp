// Amounts in binary units, rates in decimal ones, each in the unit in which it is shortest.
#include "base/units.h"

#include <gtest/gtest.h>

namespace fathom {
namespace {

TEST(Units, AmountsAreBinaryAndSmallOnesCounted) {
  EXPECT_EQ(bytes_text(0), "0 bytes");
  EXPECT_EQ(bytes_text(-3), "-3 bytes");
  EXPECT_EQ(bytes_text(10 * 1024 - 1), "10239 bytes");
  EXPECT_EQ(bytes_text(10 * 1024), "10.0 KiB");
  EXPECT_EQ(bytes_text((1 << 20) - 1), "1.0 MiB");  // not 1024 KiB
  EXPECT_EQ(bytes_text(1 << 20), "1.0 MiB");
  EXPECT_EQ(bytes_text(99 << 20), "99.0 MiB");
  EXPECT_EQ(bytes_text((int64_t{100} << 20) - 1), "100 MiB");  // not 100.0
  EXPECT_EQ(bytes_text(int64_t{671} << 30), "671 GiB");
  EXPECT_EQ(bytes_text(int64_t{5000} << 40), "5000 TiB");
  EXPECT_EQ(bytes_text(-(int64_t{3} << 30)), "-3.0 GiB");
}

TEST(Units, RatesAreDecimal) {
  EXPECT_EQ(rate_text(0), "0.0 B/s");
  EXPECT_EQ(rate_text(1500), "1.5 kB/s");
  EXPECT_EQ(rate_text(999'999), "1.0 MB/s");
  EXPECT_EQ(rate_text(123.4e6), "123 MB/s");
  EXPECT_EQ(rate_text(4.8e12), "4.8 TB/s");
  EXPECT_EQ(rate_text(4.8e15), "4800 TB/s");
  EXPECT_EQ(flop_rate_text(57.26e9), "57.3 GFLOP/s");
}

}  // namespace
}  // namespace fathom
