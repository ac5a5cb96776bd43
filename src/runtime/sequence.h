// A request on its way through the engine.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "runtime/request.h"
#include "runtime/scheduler.h"

namespace fathom {

struct Sequence {
  using Clock = std::chrono::steady_clock;

  RequestId id = 0;
  Request request;
  std::vector<int32_t> ids;    // prompt, then what was generated
  std::vector<int32_t> pages;  // page i holds the rows of positions [64 i, 64 i + 64)
  int64_t prompt = 0;          // tokens of the prompt
  int64_t cached = 0;          // positions with rows in the cache
  bool cancelled = false;      // asked to end
  bool ended = false;          // its last event is out; to be taken off the engine's lists
  RequestStats stats;
  Clock::time_point submitted, first_token;

  int64_t known() const { return static_cast<int64_t>(ids.size()); }
  int64_t generated() const { return known() - prompt; }
};

}  // namespace fathom
