// Regular expressions of JSON Schema (ECMAScript's) as grammars.
//
// What can be told from left to right is understood: characters, classes, groups, alternatives,
// repetition, ^ and $ at the two ends, and look-ahead right behind ^. Other look-around, back
// references, word boundaries and properties of characters (\p) are refused by name.
#pragma once

#include <string>
#include <string_view>

#include "text/grammar/grammar_automaton.h"
#include "text/grammar/grammar_json.h"

namespace fathom {

// Texts of such lengths in which `pattern` is found (from end to end if it says so with ^ and $),
// in front of `next`. Throws GrammarRefusal, led by `where`, for a pattern that is wrong, not
// understood, or too large beside the lengths.
int32_t matching(const JsonGrammar& json, std::string_view pattern, Spelling spelling,
                 std::string_view where, int32_t next, const Lengths& lengths = {});

// A pattern for one of JSON Schema's formats, anchored; empty if there is none.
std::string_view format_pattern(std::string_view format);

// The same without limits on the parts of a text, where these make it large: for texts whose whole
// length is limited. Empty if there is none.
std::string_view short_format_pattern(std::string_view format);

// The formats that have one, for messages.
std::string known_formats();

}  // namespace fathom
