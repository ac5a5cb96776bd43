#include "base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/units.h"

namespace fathom {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr auto kQuiet = milliseconds(500);        // shorter runs show nothing
constexpr auto kRedraw = milliseconds(200);       // on a terminal
constexpr auto kLine = std::chrono::seconds(10);  // into a pipe or a log

}  // namespace

std::string time_text(double seconds) {
  const int64_t s = std::llround(std::clamp(seconds, 0.0, 3.6e6));
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

std::string progress_line(const std::string& label, uint64_t done, uint64_t total, double rate,
                          int bar_width) {
  double share = total ? static_cast<double>(done) / static_cast<double>(total) : 1;
  std::string bar;
  if (bar_width > 0) {
    auto full = static_cast<size_t>(share * bar_width);
    bar = fmt::format(" [{:<{}}]", std::string(full, '='), bar_width);
  }
  std::string left =
      rate > 0 ? time_text(static_cast<double>(total - done) / rate) : std::string("-:--");
  return fmt::format("{}{} {:3.0f} %  {} of {}  {}  {} left", label, bar, 100 * share,
                     bytes_text(static_cast<int64_t>(done)),
                     bytes_text(static_cast<int64_t>(total)), rate_text(rate), left);
}

Progress::Progress(std::string label, uint64_t total, uint64_t start)
    : label_(std::move(label)),
      total_(total),
      start_(start),
      begin_(steady_clock::now()),
      terminal_(isatty(STDERR_FILENO) != 0) {
  next_ = begin_ + (terminal_ ? steady_clock::duration(kQuiet) : steady_clock::duration(kLine));
}

Progress::~Progress() { clear(); }

void Progress::clear() {
  if (drawn_) fmt::print(stderr, "\r\x1b[K");
  drawn_ = false;
}

void Progress::update(uint64_t done) {
  auto now = steady_clock::now();
  if (now < next_) return;
  double seconds = std::chrono::duration<double>(now - begin_).count();
  double rate = static_cast<double>(done - std::min(start_, done)) / seconds;
  if (terminal_) {
    fmt::print(stderr, "\r{}\x1b[K", progress_line(label_, done, total_, rate, 24));
    std::fflush(stderr);
    drawn_ = true;
    next_ = now + kRedraw;
  } else {
    fmt::print(stderr, "{}\n", progress_line(label_, done, total_, rate, 0));
    next_ = now + kLine;
  }
}

}  // namespace fathom
