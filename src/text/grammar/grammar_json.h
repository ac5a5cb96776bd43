// The rules of JSON as grammars, and the texts around it that are not JSON.
//
// What may be written is a little less than all of JSON, so that an answer ends and can be read
// back: white space stands where people put it and is bounded, numbers have bounded digits, and
// "<" or "</" is not followed by the bar U+FF5C, with which the markers of both encodings begin,
// unless that is escaped.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "text/grammar/grammar.h"
#include "text/grammar/grammar_utf8.h"
#include "text/python_json.h"

namespace fathom {

inline constexpr uint32_t kBar = 0xFF5C;  // of <｜...｜>

// The text of a JSON string, or the same characters as they are.
enum class Spelling { json, raw };

class JsonGrammar {
 public:
  static constexpr int kMaxDigits = 18;  // in front of a decimal point, and behind it
  static constexpr int kMaxIndent = 48;  // spaces behind a line break

  // Adds its rules to `grammar`, which must outlive it. In a grammar without any they always get
  // the same nodes.
  explicit JsonGrammar(Grammar& grammar);

  Grammar& grammar() const { return grammar_; }

  // Behind "{", "[" and ",", in front of "}" and "]": nothing, a space, or a line break and an
  // indent.
  int32_t space(int32_t next) const;
  int32_t colon(int32_t next) const;  // ":" or ": "
  int32_t string(int32_t next) const { return grammar_.call(string_, next); }
  int32_t number(int32_t next) const { return grammar_.call(number_, next); }
  int32_t value(int32_t next) const { return grammar_.call(value_, next); }
  int32_t object(int32_t next) const { return grammar_.call(object_, next); }
  int32_t value_rule() const { return value_; }
  // One value, spelled in the one way that `python_dumps` and JavaScript share, white space aside.
  int32_t constant(const OrderedJson& value, int32_t next) const;

  // A character of `set`.
  int32_t character(const CodeSet& set, Spelling spelling, int32_t next) const;
  // A rule for any character.
  int32_t any_character_rule(Spelling spelling) const {
    return spelling == Spelling::json ? json_character_ : raw_character_;
  }
  // Any text without markers, as it is.
  int32_t raw_text(int32_t next) const;

  // "[" items "]" and "{" members "}", of any number from 0 on; `item` makes a node for one.
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

// `text` as the inside of a JSON string, spelled as in answers; the bar is escaped where it must
// be.
std::string json_spelling(std::string_view text);

}  // namespace fathom
