// Regular expressions that several conditions restrict at once: look-ahead at the beginning, and a
// least and a largest length. Where a grammar goes along one expression, these need an automaton
// that goes along all of them.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "text/grammar/grammar_json.h"
#include "text/grammar/grammar_utf8.h"

namespace fathom {

// A regular expression, parsed.
struct Expression {
  enum class Kind { characters, sequence, choice, repeat };
  static constexpr int kUnlimited = -1;

  Kind kind = Kind::sequence;
  CodeSet characters;
  std::vector<Expression> parts;  // repeat: one
  int min = 1, max = 1;           // repeat; kUnlimited
};

// What a text must (or, `negative`, must not) begin with: one of the ways. One that goes `to_end`
// is the whole text.
struct LookAhead {
  struct Way {
    Expression expression;
    bool to_end = false;
  };
  bool negative = false;
  std::vector<Way> ways;
};

// Of a text, in characters.
struct Lengths {
  uint32_t min = 0, max = Grammar::kUnbounded;
  bool restrict() const { return min > 0 || max != Grammar::kUnbounded; }
};

// Texts that are `whole`, follow all of `ahead` and have such a length, in front of `next`. Throws
// GrammarRefusal, led by `where`, if that needs more states than kMaxAutomatonStates.
inline constexpr size_t kMaxAutomatonStates = 6000;
int32_t automaton(const JsonGrammar& json, const Expression& whole,
                  const std::vector<LookAhead>& ahead, const Lengths& lengths, Spelling spelling,
                  std::string_view where, int32_t next);

}  // namespace fathom
