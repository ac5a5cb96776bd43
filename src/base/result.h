// Result<T>: a value, or the Failure that says why there is none. The engine reports what is wrong
// with a request this way; it throws no exceptions to its callers.
#pragma once

#include <string>
#include <utility>
#include <variant>

#include "base/check.h"

namespace fathom {

// `status` is the HTTP status the server answers with; a terminal shows `message` alone.
struct Failure {
  int status = 400;
  std::string message;
};

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Failure failure) : state_(std::in_place_index<1>, std::move(failure)) {}

  bool ok() const { return state_.index() == 0; }
  const T& value() const& {
    FATHOM_CHECK(ok(), "value() of a failure: {}", failure().message);
    return std::get<0>(state_);
  }
  T&& value() && {
    FATHOM_CHECK(ok(), "value() of a failure: {}", failure().message);
    return std::get<0>(std::move(state_));
  }
  const Failure& failure() const { return std::get<1>(state_); }

 private:
  std::variant<T, Failure> state_;
};

}  // namespace fathom
