#include "eval/task.h"

#include <fmt/format.h>

#include <algorithm>

namespace fathom::eval {

std::string text_of(const PageKey& key) { return fmt::format("{:016x}{:016x}", key.a, key.b); }

int64_t longest(const Task& task) {
  int64_t most = 0;
  for (size_t i = 0; i < task.size(); ++i)
    for (const Ask& ask : task.asks(i))
      most = std::max(most, static_cast<int64_t>(ask.ids.size()) + ask.max_new_tokens);
  return most;
}

}  // namespace fathom::eval
