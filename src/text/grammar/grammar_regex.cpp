#include "text/grammar/grammar_regex.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "text/utf8.h"

namespace fathom {
namespace {

constexpr int kUnlimited = Expression::kUnlimited;
constexpr int kMaxRepeat = 1000;
constexpr int kMaxNesting = 50;

const CodeSet kDigit = {{'0', '9'}};
const CodeSet kWord = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
const CodeSet kWhite = {{'\t', '\r'},     {' ', ' '},       {0xA0, 0xA0},     {0x1680, 0x1680},
                        {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F},
                        {0x3000, 0x3000}, {0xFEFF, 0xFEFF}};
const CodeSet kLineEnds = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};
const CodeSet kAnything = {{0, kMaxCode}};

// One of a pattern's alternatives, as an expression for the whole text.
struct Alternative {
  Expression whole;
  std::vector<LookAhead> ahead;
};

class Parser {
 public:
  Parser(std::string_view pattern, std::string_view where) : text_(pattern), where_(where) {
    if (const auto bad = first_invalid_utf8(pattern)) refuse("not UTF-8", *bad);
  }

  // The whole pattern: alternatives with their own anchors. Where one is missing, anything may
  // stand on that side.
  std::vector<Alternative> parse() {
    std::vector<Alternative> all;
    do {
      Alternative one;
      const bool from_start = take('^');
      while (from_start && (peek_text("(?=") || peek_text("(?!")))
        one.ahead.push_back(parse_look_ahead());
      one.whole = parse_sequence(0);
      const bool to_end = take('$');
      if (!from_start) one.whole.parts.insert(one.whole.parts.begin(), anything());
      if (!to_end) one.whole.parts.push_back(anything());
      all.push_back(std::move(one));
    } while (take('|'));
    if (at_ < text_.size()) {
      refuse(text_[at_] == ')' ? "there is no group to close here"
                               : "^ and $ are understood at the ends of the pattern only",
             at_);
    }
    return all;
  }

 private:
  static Expression of_characters(CodeSet set) {
    return {Expression::Kind::characters, std::move(set), {}, 1, 1};
  }
  static Expression anything() {
    return {Expression::Kind::repeat, {}, {of_characters(kAnything)}, 0, kUnlimited};
  }

  bool ends() const { return at_ >= text_.size(); }
  char peek() const { return ends() ? '\0' : text_[at_]; }
  bool take(char c) {
    if (ends() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool take(std::string_view s) {
    if (!text_.substr(at_).starts_with(s)) return false;
    at_ += s.size();
    return true;
  }
  bool peek_text(std::string_view s) const { return text_.substr(at_).starts_with(s); }
  [[noreturn]] void refuse(std::string_view reason, size_t at) const {
    throw GrammarRefusal(fmt::format("{}: '{}', at byte {}: {}", where_, text_, at, reason));
  }
  uint32_t take_code() {
    const Utf8Step step = utf8_step(text_, at_);
    at_ += step.length;
    return step.code;
  }

  LookAhead parse_look_ahead() {
    const size_t begin = at_;
    LookAhead look;
    look.negative = take("(?!");
    if (!look.negative) take("(?=");
    do {
      take('^');  // it is there already
      Expression sequence = parse_sequence(1);
      look.ways.push_back({std::move(sequence), take('$')});
    } while (take('|'));
    if (!take(')')) refuse("the group that begins here does not end", begin);
    return look;
  }

  Expression parse_choice(int nesting) {
    Expression choice;
    choice.kind = Expression::Kind::choice;
    do {
      choice.parts.push_back(parse_sequence(nesting));
    } while (take('|'));
    return choice;
  }

  Expression parse_sequence(int nesting) {
    Expression sequence;
    while (!ends() && peek() != '|' && peek() != ')' && peek() != '$') {
      if (peek() == '^') refuse("^ and $ are understood at the ends of the pattern only", at_);
      Expression atom = parse_atom(nesting);
      parse_repeat(atom);
      sequence.parts.push_back(std::move(atom));
    }
    return sequence;
  }

  Expression parse_atom(int nesting) {
    const size_t begin = at_;
    if (take('(')) {
      if (nesting >= kMaxNesting)
        refuse(fmt::format("more than {} groups deep", kMaxNesting), begin);
      if (take("?=") || take("?!") || take("?<=") || take("?<!"))
        refuse("look-around is not supported", begin);
      if (take("?<")) {
        while (!ends() && peek() != '>') ++at_;
        if (!take('>')) refuse("the group's name does not end", begin);
      } else if (!take("?:") && peek() == '?') {
        refuse("this kind of group is not supported", begin);
      }
      Expression group = parse_choice(nesting + 1);
      if (!take(')')) {
        refuse(peek() == '$' ? "^ and $ are understood at the ends of the pattern only"
                             : "the group that begins here does not end",
               peek() == '$' ? at_ : begin);
      }
      return group;
    }
    if (take('[')) return of_characters(parse_class(begin));
    if (take('.')) return of_characters(complement(kLineEnds));
    if (take('\\')) return of_characters(parse_escape(begin, false));
    const char c = peek();
    if (c == '*' || c == '+' || c == '?') refuse("there is nothing to repeat in front of it", at_);
    const uint32_t code = take_code();
    return of_characters({{code, code}});
  }

  void parse_repeat(Expression& atom) {
    const size_t begin = at_;
    int min = 1, max = 1;
    if (take('*')) {
      min = 0, max = kUnlimited;
    } else if (take('+')) {
      max = kUnlimited;
    } else if (take('?')) {
      min = 0;
    } else if (const auto counts = take_counts()) {
      std::tie(min, max) = *counts;
    } else {
      return;
    }
    take('?');  // how eagerly it is matched does not matter for what is matched
    if (peek() == '*' || peek() == '+' || peek() == '?')
      refuse("a repetition cannot be repeated without a group", at_);
    if (max != kUnlimited && max < min) refuse("the counts are in the wrong order", begin);
    atom = {Expression::Kind::repeat, {}, {std::move(atom)}, min, max};
  }

  // {n}, {n,} or {n,m}; a brace that begins none of these is a character.
  std::optional<std::pair<int, int>> take_counts() {
    const size_t begin = at_;
    if (!take('{')) return std::nullopt;
    const auto low = take_number(begin);
    if (low) {
      if (take('}')) return std::pair(*low, *low);
      if (take(',')) {
        if (take('}')) return std::pair(*low, kUnlimited);
        const auto high = take_number(begin);
        if (high && take('}')) return std::pair(*low, *high);
      }
    }
    at_ = begin;
    return std::nullopt;
  }

  std::optional<int> take_number(size_t begin) {
    if (peek() < '0' || peek() > '9') return std::nullopt;
    int number = 0;
    while (peek() >= '0' && peek() <= '9') {
      number = number * 10 + (text_[at_++] - '0');
      if (number > kMaxRepeat) refuse(fmt::format("at most {} times", kMaxRepeat), begin);
    }
    return number;
  }

  CodeSet parse_class(size_t begin) {
    const bool negated = take('^');
    CodeSet set;
    while (!take(']')) {
      if (ends()) refuse("the class that begins here does not end", begin);
      const CodeSet low = class_part();
      const bool range = peek() == '-' && at_ + 1 < text_.size() && text_[at_ + 1] != ']';
      if (!range) {
        set.insert(set.end(), low.begin(), low.end());
        continue;
      }
      const size_t dash = at_++;
      const CodeSet high = class_part();
      const auto single = [](const CodeSet& s) { return s.size() == 1 && s[0].low == s[0].high; };
      // With a class such as \w on a side the dash is a character.
      if (!single(low) || !single(high)) {
        set.insert(set.end(), low.begin(), low.end());
        set.insert(set.end(), high.begin(), high.end());
        set.push_back({'-', '-'});
        continue;
      }
      if (low[0].low > high[0].low) refuse("this range has no beginning or end", dash);
      set.push_back({low[0].low, high[0].low});
    }
    return negated ? complement(set) : normalized(set);
  }

  CodeSet class_part() {
    const size_t begin = at_;
    if (take('\\')) return parse_escape(begin, true);
    if (ends()) refuse("the class does not end", begin);
    const uint32_t code = take_code();
    return {{code, code}};
  }

  CodeSet parse_escape(size_t begin, bool in_class) {
    if (ends()) refuse("nothing is escaped", begin);
    const uint32_t c = take_code();
    switch (c) {
      case 'd':
        return kDigit;
      case 'D':
        return complement(kDigit);
      case 'w':
        return kWord;
      case 'W':
        return complement(kWord);
      case 's':
        return kWhite;
      case 'S':
        return complement(kWhite);
      case 't':
        return {{'\t', '\t'}};
      case 'n':
        return {{'\n', '\n'}};
      case 'r':
        return {{'\r', '\r'}};
      case 'f':
        return {{'\f', '\f'}};
      case 'v':
        return {{'\v', '\v'}};
      case '0':
        return {{0, 0}};
      case 'x':
        return hex_code(begin, 2);
      case 'u':
        if (take('{')) {
          CodeSet code = hex_code(begin, 0);
          if (!take('}')) refuse("the code point does not end", begin);
          return code;
        }
        return hex_code(begin, 4);
      case 'b':
        if (in_class) return {{'\b', '\b'}};
        refuse("word boundaries are not supported", begin);
      case 'B':
        refuse("word boundaries are not supported", begin);
      case 'p':
      case 'P':
        refuse("properties of characters are not supported; name the characters", begin);
      default:
        break;
    }
    if (c >= '1' && c <= '9') refuse("back references are not supported", begin);
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) refuse("this escape is not known", begin);
    return {{c, c}};
  }

  CodeSet hex_code(size_t begin, int digits) {  // 0: as many as there are
    uint32_t code = 0;
    int read = 0;
    for (; (digits == 0 ? read < 6 : read < digits) && !ends(); ++read) {
      const char c = peek();
      const int value = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (value < 0) break;
      code = code * 16 + static_cast<uint32_t>(value);
      ++at_;
    }
    if (read == 0 || read < digits || code > kMaxCode) refuse("no code point", begin);
    return {{code, code}};
  }

  std::string_view text_;
  std::string_view where_;
  size_t at_ = 0;
};

int32_t build(const JsonGrammar& json, const Expression& e, Spelling spelling, int32_t next) {
  Grammar& g = json.grammar();
  switch (e.kind) {
    case Expression::Kind::characters:
      return json.character(e.characters, spelling, next);
    case Expression::Kind::sequence:
      for (auto part = e.parts.rbegin(); part != e.parts.rend(); ++part)
        next = build(json, *part, spelling, next);
      return next;
    case Expression::Kind::choice: {
      std::vector<int32_t> ways;
      for (const Expression& part : e.parts) ways.push_back(build(json, part, spelling, next));
      return g.split(ways);
    }
    case Expression::Kind::repeat: {
      int32_t node = next;
      if (e.max == kUnlimited) {
        node = g.reserve();
        g.fill(node, {build(json, e.parts[0], spelling, node), next});
      } else {
        for (int i = e.min; i < e.max; ++i)
          node = g.split({build(json, e.parts[0], spelling, node), next});
      }
      for (int i = 0; i < e.min; ++i) {
        const int32_t before = std::exchange(node, build(json, e.parts[0], spelling, node));
        if (node == before) break;  // an empty text, however often repeated
      }
      return node;
    }
  }
  return next;
}

}  // namespace

int32_t matching(const JsonGrammar& json, std::string_view pattern, Spelling spelling,
                 std::string_view where, int32_t next, const Lengths& lengths) {
  std::vector<int32_t> ways;
  for (const Alternative& one : Parser(pattern, where).parse()) {
    const bool plain = one.ahead.empty() && !lengths.restrict();
    ways.push_back(plain ? build(json, one.whole, spelling, next)
                         : automaton(json, one.whole, one.ahead, lengths, spelling, where, next));
  }
  return json.grammar().split(ways);
}

namespace {

struct Format {
  std::string_view name, pattern;
  std::string_view short_pattern = {};  // without limits on the lengths of parts
};

// Every text that matches is valid for its format. RFC 3339's leap seconds, rare e-mail addresses
// and rare spellings of IPv6 addresses do not match.
#define FATHOM_DATE                                                                             \
  "(\\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]" \
  "|1\\d|2[0-8]))|(\\d\\d(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)"
#define FATHOM_TIME \
  "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,9})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)"
#define FATHOM_LABEL "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define FATHOM_ANY_LABEL "[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
#define FATHOM_BYTE "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
#define FATHOM_H16 "[0-9A-Fa-f]{1,4}"
#define FATHOM_PCHAR "([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
constexpr Format kFormats[] = {
    {"date-time", "^" FATHOM_DATE "T" FATHOM_TIME "$"},
    {"date", "^" FATHOM_DATE "$"},
    {"time", "^" FATHOM_TIME "$"},
    {"duration",
     "^P(\\d{1,9}W|(\\d{1,9}Y(\\d{1,9}M)?(\\d{1,9}D)?|\\d{1,9}M(\\d{1,9}D)?|\\d{1,9}D)(T(\\d{1,9}H("
     "\\d{1,9}M)?(\\d{1,9}S)?|\\d{1,9}M(\\d{1,9}S)?|\\d{1,9}S))?|T(\\d{1,9}H(\\d{1,9}M)?(\\d{1,9}S)"
     "?|\\d{1,9}M(\\d{1,9}S)?|\\d{1,9}S))$"},
    {"email", "^[A-Za-z0-9_+-]+(\\.[A-Za-z0-9_+-]+)*@(" FATHOM_LABEL "\\.){1,5}[A-Za-z]{2,24}$",
     "^[A-Za-z0-9_+-]+(\\.[A-Za-z0-9_+-]+)*@(" FATHOM_ANY_LABEL "\\.)+[A-Za-z]{2,}$"},
    {"hostname", "^" FATHOM_LABEL "(\\." FATHOM_LABEL "){0,3}$",
     "^" FATHOM_ANY_LABEL "(\\." FATHOM_ANY_LABEL ")*$"},
    {"ipv4", "^" FATHOM_BYTE "(\\." FATHOM_BYTE "){3}$"},
    {"ipv6", "^((" FATHOM_H16 ":){7}" FATHOM_H16 "|::(" FATHOM_H16 "(:" FATHOM_H16
             "){0,5})?|" FATHOM_H16 "::(" FATHOM_H16 "(:" FATHOM_H16 "){0,4})?|" FATHOM_H16
             ":" FATHOM_H16 "::(" FATHOM_H16 "(:" FATHOM_H16 "){0,3})?|(" FATHOM_H16
             ":){2}" FATHOM_H16 "::(" FATHOM_H16 "(:" FATHOM_H16 "){0,2})?)$"},
    {"uri",
     "^[a-z][a-z0-9+.-]{0,20}://" FATHOM_LABEL "(\\." FATHOM_LABEL
     "){0,5}(:[1-9]\\d{0,3})?(/" FATHOM_PCHAR "*)*(\\?(" FATHOM_PCHAR "|[/?])*)?(#(" FATHOM_PCHAR
     "|[/?])*)?$",
     "^[a-z][a-z0-9+.-]*://" FATHOM_ANY_LABEL "(\\." FATHOM_ANY_LABEL
     ")*(:[1-9]\\d{0,3})?(/" FATHOM_PCHAR "*)*(\\?(" FATHOM_PCHAR "|[/?])*)?(#(" FATHOM_PCHAR
     "|[/?])*)?$"},
    {"uuid", "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"},
};
#undef FATHOM_DATE
#undef FATHOM_TIME
#undef FATHOM_LABEL
#undef FATHOM_ANY_LABEL
#undef FATHOM_BYTE
#undef FATHOM_H16
#undef FATHOM_PCHAR

}  // namespace

std::string_view format_pattern(std::string_view format) {
  for (const Format& f : kFormats)
    if (f.name == format) return f.pattern;
  return {};
}

std::string_view short_format_pattern(std::string_view format) {
  for (const Format& f : kFormats)
    if (f.name == format) return f.short_pattern;
  return {};
}

std::string known_formats() {
  std::string names;
  for (const Format& f : kFormats) names += (names.empty() ? "" : ", ") + std::string(f.name);
  return names;
}

}  // namespace fathom
