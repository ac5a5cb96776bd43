// Three kinds of errors, each with its own mechanism:
//   a bug in this program       FATHOM_CHECK (base/check.h) prints place and values, and stops
//   a file, memory, a device    fail(...) throws Error; `main` prints it on one line, exit code 1
//   a request                   Result<T> (base/result.h): the program goes on
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace fathom {

// A file, driver, memory or configuration is not as it should be. The message says what was
// expected and what was found. It has one line, or one line per problem when there are several.
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
