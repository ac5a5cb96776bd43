// Compares a generated answer with the expected one.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace fathom::eval {

// A Perl-compatible regular expression over UTF-8.
class Pattern {
 public:
  // Throws Error with the place where it does not compile.
  explicit Pattern(const std::string& pattern);
  ~Pattern();
  Pattern(Pattern&&) noexcept;
  Pattern& operator=(Pattern&&) noexcept;

  // Whether it matches anywhere in the text. A pattern that exceeds the matching limits
  // (catastrophic backtracking) does not match.
  bool found_in(std::string_view text) const;

 private:
  struct Code;
  std::unique_ptr<Code> code_;
};

// Returns the first number after the last `marker`; with an empty marker the last number of the
// text. Signs, thousands' commas, decimals and exponents are understood: "-1,234.50" is -1234.5.
std::optional<double> number_behind(std::string_view text, std::string_view marker);

// Returns `text` without white space at both ends.
std::string_view trimmed(std::string_view text);

}  // namespace fathom::eval
