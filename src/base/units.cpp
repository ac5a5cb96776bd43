#include "base/units.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <span>
#include <string_view>

namespace fathom {
namespace {

// `value` in the greatest unit in which it is at least 1. Each unit is `step` times the one before.
// Values below 100 have one decimal.
std::string scaled(double value, double step, std::span<const std::string_view> units) {
  size_t unit = 0;
  for (; unit + 1 < units.size() && std::abs(value) >= step - 0.5; ++unit) value /= step;
  return fmt::format("{:.{}f} {}", value, std::abs(value) < 99.95 ? 1 : 0, units[unit]);
}

}  // namespace

std::string bytes_text(int64_t bytes) {
  static constexpr std::string_view kUnits[] = {"KiB", "MiB", "GiB", "TiB"};
  if (std::abs(bytes) < 10 * 1024) return fmt::format("{} bytes", bytes);
  return scaled(static_cast<double>(bytes) / 1024, 1024, kUnits);
}

std::string rate_text(double bytes_per_second) {
  static constexpr std::string_view kUnits[] = {"B/s", "kB/s", "MB/s", "GB/s", "TB/s"};
  return scaled(bytes_per_second, 1000, kUnits);
}

std::string flop_rate_text(double flop_per_second) {
  static constexpr std::string_view kUnits[] = {"FLOP/s", "kFLOP/s", "MFLOP/s", "GFLOP/s",
                                                "TFLOP/s"};
  return scaled(flop_per_second, 1000, kUnits);
}

}  // namespace fathom
