// Shows the progress of a long copy: on a terminal a bar with rate and remaining time, elsewhere a
// line every ten seconds, and nothing for a copy of less than half a second.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace fathom {

class Progress {
 public:
  // Writes to standard error. `start` bytes of `total` are done already (a resumed run); they count
  // for the bar but not for the rate.
  Progress(std::string label, uint64_t total, uint64_t start = 0);
  ~Progress();
  void update(uint64_t done);

 private:
  void clear();

  std::string label_;
  uint64_t total_, start_;
  std::chrono::steady_clock::time_point begin_, next_;
  bool terminal_, drawn_ = false;
};

std::string time_text(double seconds);  // "1:02:03" or "4:05"
// The bar's line, without terminal codes.
std::string progress_line(const std::string& label, uint64_t done, uint64_t total, double rate,
                          int bar_width);

}  // namespace fathom
