// Sizes in whole units: how many units hold a size, and how large those are together.
#pragma once

#include <type_traits>

namespace fathom {

template <class T>
constexpr T ceil_div(T size, std::type_identity_t<T> unit) {
  return (size + unit - 1) / unit;
}

template <class T>
constexpr T round_up(T size, std::type_identity_t<T> unit) {
  return ceil_div(size, unit) * unit;
}

}  // namespace fathom
