// Grammars for JSON, and for plain text in answers.
//
// They allow a little less than all of JSON, so that an answer ends and can be read back. White
// space is bounded and stands only where people write it. Numbers have a bounded number of digits.
// Behind "<" or "</" the bar U+FF5C must be escaped, because the markers of both encodings begin
// that way.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "text/grammar/grammar.h"
#include "text/grammar/grammar_utf8.h"
#include "text/python_json.h"

namespace fathom {

inline constexpr uint32_t kBar = 0xFF5C;  // of <｜...｜>

// Characters spelled as in a JSON string (with escapes), or as they are.
enum class Spelling { json, raw };

class JsonGrammar {
 public:
  static constexpr int kMaxDigits = 18;  // before a decimal point, and after it
  static constexpr int kMaxIndent = 48;  // spaces after a line break

  // Adds its rules to `grammar`, which must outlive it. In an empty grammar they always get the
  // same nodes.
  explicit JsonGrammar(Grammar& grammar);

  Grammar& grammar() const { return grammar_; }

  // White space after "{", "[" and "," and before "}" and "]": none, a space, or a line break with
  // an indent.
  int32_t space(int32_t next) const;
  int32_t colon(int32_t next) const;  // ":" or ": "
  int32_t string(int32_t next) const { return grammar_.call(string_, next); }
  int32_t number(int32_t next) const { return grammar_.call(number_, next); }
  int32_t value(int32_t next) const { return grammar_.call(value_, next); }
  int32_t object(int32_t next) const { return grammar_.call(object_, next); }
  int32_t value_rule() const { return value_; }
  // One value, in the spelling that `python_dumps` and JavaScript share; only white space may vary.
  int32_t constant(const OrderedJson& value, int32_t next) const;

  // A character of `set`.
  int32_t character(const CodeSet& set, Spelling spelling, int32_t next) const;
  // A rule for any character.
  int32_t any_character_rule(Spelling spelling) const {
    return spelling == Spelling::json ? json_character_ : raw_character_;
  }
  // Any text without markers, as it is.
  int32_t raw_text(int32_t next) const;

  // "[" items "]" or "{" members "}" with any number of them, also none. `item` makes the node of
  // one.
  template <class Item>
  int32_t list(char open, char close, Item item, int32_t next) const {
    const int32_t end = space(grammar_.byte(close, next));
    const int32_t more = grammar_.reserve();
    const int32_t first = item(more);
    grammar_.fill(more, {grammar_.byte(',', space(first)), end});
    return grammar_.byte(open, space(grammar_.split({first, grammar_.byte(close, next)})));
  }

 private:
  int32_t escape(int32_t next) const;  // what follows the backslash
  int32_t string_body() const;
  int32_t number_body() const;

  Grammar& grammar_;
  int32_t indent_, string_, json_character_, raw_character_, number_, value_, object_;
};

// Returns `text` as the inside of a JSON string, spelled as in answers (with the bar escaped where
// needed).
std::string json_spelling(std::string_view text);

}  // namespace fathom
