// Numbers between bounds, and multiples, as grammars over their digits.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "text/grammar/grammar.h"

namespace fathom {

// A number as its decimal digits, so that bounds are compared exactly as they were written.
struct Decimal {
  bool negative = false;
  std::string whole = "0";  // without leading zeros
  std::string fraction;     // without trailing zeros

  bool is_zero() const { return whole == "0" && fraction.empty(); }
  bool is_whole() const { return fraction.empty(); }
  bool operator==(const Decimal&) const = default;
};

// Reads a JSON number such as -1.5e3. Returns nothing if it has more digits before or after the
// point than numbers in answers may have (JsonGrammar::kMaxDigits).
std::optional<Decimal> decimal_of(std::string_view text);

struct NumberForm {
  struct Bound {
    Decimal value;
    bool excluded = false;  // the number may not be equal to it
  };
  std::optional<Bound> low, high;
  bool whole = false;        // no fraction
  int max_fraction = -1;     // digits after the point; -1: as many as numbers may have
  uint32_t multiple_of = 1;  // of whole numbers
  static constexpr uint32_t kMaxMultiple = 1000;
};

// Makes the graph of all numbers of that form, without exponents and without "-0", followed by
// `next`. If no number fits the bounds, `next` cannot be reached from the returned node.
int32_t number_between(Grammar& grammar, const NumberForm& form, int32_t next);

}  // namespace fathom
