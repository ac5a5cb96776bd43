// FATHOM_CHECK(condition, format, values...) stops the program when `condition` is false, which is
// a bug. It prints place and values. All builds contain the checks. What a user, a file or a device
// may get wrong is never checked with it (see base/error.h).
#pragma once

#include <cstdio>
#include <cstdlib>
#if !defined(__CUDACC__)
#include <fmt/format.h>
#endif

#if defined(__CUDACC__)
// nvcc 13 does not compile the checked format strings of fmt 9: kernels' files get the condition
// without its values.
#define FATHOM_CHECK(condition, ...)                                                               \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      std::fprintf(stderr, "fathom: bug at %s:%d: %s is false\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                                \
    }                                                                                              \
  } while (0)
#else
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
#endif
