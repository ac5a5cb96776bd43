// Regular expressions under several conditions at once: look-ahead at the beginning, and a least
// and a greatest length. A plain grammar follows one expression; these need an automaton that
// follows all of them side by side.
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

// A condition on the beginning of a text: it must match one of `ways` (none of them, if
// `negative`). A way with `to_end` must match the whole text.
struct LookAhead {
  struct Way {
    Expression expression;
    bool to_end = false;
  };
  bool negative = false;
  std::vector<Way> ways;
};

// The allowed lengths of a text, in characters.
struct Lengths {
  uint32_t min = 0, max = Grammar::kUnbounded;
  bool restrict() const { return min > 0 || max != Grammar::kUnbounded; }
};

// Makes the graph of all texts that match `whole` and all of `ahead` and have one of the `lengths`,
// followed by `next`. Throws GrammarRefusal, whose message begins with `where`, if that needs more
// than kMaxAutomatonStates states.
inline constexpr size_t kMaxAutomatonStates = 6000;
int32_t automaton(const JsonGrammar& json, const Expression& whole,
                  const std::vector<LookAhead>& ahead, const Lengths& lengths, Spelling spelling,
                  std::string_view where, int32_t next);

}  // namespace fathom
