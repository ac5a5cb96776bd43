// Three kinds of wrong, three mechanisms:
//   a bug in this program       FATHOM_CHECK (base/check.h): message with place and values, stop
//   the world is wrong          fail(...), throws Error; `main` prints it on one line, exit code 1
//   a request is wrong          Result<T> (base/result.h): the process lives on
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace fathom {

// File, driver, memory or configuration is not what it should be. The message says what was
// expected and what was found, on one line, or one problem a line when there are several.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The command line is wrong: exit code 2 instead of 1.
class UsageError : public Error {
 public:
  using Error::Error;
};

template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace fathom
