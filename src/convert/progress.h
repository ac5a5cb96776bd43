// Shows how a long copy goes: a bar with rate and time left on a terminal, a line now and then
// elsewhere, nothing at all when it is over at once.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace fathom {

class Progress {
 public:
  // Writes to standard error. `start` bytes of `total` were there before (a resumed run): they
  // count for the share done, not for the rate.
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

std::string size_text(uint64_t bytes);  // "12.3 GB"
std::string time_text(double seconds);  // "1:02:03" or "4:05"
// The bar's line, without terminal codes.
std::string progress_line(const std::string& label, uint64_t done, uint64_t total, double rate,
                          int bar_width);

}  // namespace fathom
