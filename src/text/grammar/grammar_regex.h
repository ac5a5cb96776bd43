// Regular expressions of JSON Schema (ECMAScript's) as grammars.
//
// Supported is what can be decided while reading from left to right: characters, classes, groups,
// alternatives, repetition, ^ and $ at the two ends, and look-ahead right after ^. Other
// look-around, back references, word boundaries and properties of characters (\p) are refused by
// name.
#pragma once

#include <string>
#include <string_view>

#include "text/grammar/grammar_automaton.h"
#include "text/grammar/grammar_json.h"

namespace fathom {

// Makes the graph of all texts of these lengths that contain a match of `pattern` (^ and $ bind it
// to the ends), followed by `next`. Throws GrammarRefusal, whose message begins with `where`, for a
// pattern that is wrong, not supported, or too large together with the lengths.
int32_t matching(const JsonGrammar& json, std::string_view pattern, Spelling spelling,
                 std::string_view where, int32_t next, const Lengths& lengths = {});

// Returns the anchored pattern of one of JSON Schema's formats; empty if there is none.
std::string_view format_pattern(std::string_view format);

// Returns a smaller pattern that does not limit the parts of a text, for texts whose whole length
// is limited. Empty if there is none.
std::string_view short_format_pattern(std::string_view format);

// Lists the formats that have a pattern, for messages.
std::string known_formats();

}  // namespace fathom
