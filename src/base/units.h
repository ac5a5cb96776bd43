// Amounts and rates as text. Amounts of memory and files are counted in binary units, as the flags
// that ask for them (--cache-dir-gib, --index-budget); rates in decimal ones, as makers of memory,
// disks and links state theirs.
#pragma once

#include <cstdint>
#include <string>

namespace fathom {

inline constexpr double kMiB = 1024.0 * 1024, kGiB = 1024 * kMiB;

std::string bytes_text(int64_t bytes);               // "5.3 GiB"; below 10 KiB in bytes
std::string rate_text(double bytes_per_second);      // "5.7 GB/s"
std::string flop_rate_text(double flop_per_second);  // "57 GFLOP/s"

}  // namespace fathom
