// Numbers between bounds, and multiples, as grammars over their digits.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "text/grammar/grammar.h"

namespace fathom {

// A number by its decimal digits, so that bounds are compared as they were written.
struct Decimal {
  bool negative = false;
  std::string whole = "0";  // without leading zeros
  std::string fraction;     // without trailing zeros

  bool is_zero() const { return whole == "0" && fraction.empty(); }
  bool is_whole() const { return fraction.empty(); }
  bool operator==(const Decimal&) const = default;
};

// Reads a JSON number such as -1.5e3. Nothing if it has more digits in front of or behind the point
// than numbers in answers may have (JsonGrammar::kMaxDigits).
std::optional<Decimal> decimal_of(std::string_view text);

struct NumberForm {
  struct Bound {
    Decimal value;
    bool excluded = false;  // the number may not be equal to it
  };
  std::optional<Bound> low, high;
  bool whole = false;        // no fraction
  int max_fraction = -1;     // digits behind the point; -1: as many as numbers may have
  uint32_t multiple_of = 1;  // of whole numbers
  static constexpr uint32_t kMaxMultiple = 1000;
};

// Numbers of that form, without exponents; "-0" is not among them. Bounds that leave nothing lead
// to a node from which there is no way to `next`.
int32_t number_between(Grammar& grammar, const NumberForm& form, int32_t next);

}  // namespace fathom
