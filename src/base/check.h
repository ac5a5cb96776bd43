// FATHOM_CHECK(condition, format, values...): a broken promise inside the program. Always on; never
// used for what a user, a file or a device may get wrong (see base/error.h).
#pragma once

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>

namespace fathom::detail {
[[noreturn]] inline void check_failed(const char* file, int line, const char* condition,
                                      const std::string& message) {
  fmt::print(stderr, "fathom: bug at {}:{}: {} is false: {}\n", file, line, condition, message);
  std::abort();
}
}  // namespace fathom::detail

#define FATHOM_CHECK(condition, ...)                                                            \
  do {                                                                                          \
    if (!(condition)) [[unlikely]]                                                              \
      ::fathom::detail::check_failed(__FILE__, __LINE__, #condition, fmt::format(__VA_ARGS__)); \
  } while (0)
