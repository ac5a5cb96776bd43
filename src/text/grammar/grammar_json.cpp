#include "text/grammar/grammar_json.h"

#include <fmt/format.h>

#include "text/utf8.h"

namespace fathom {
namespace {

// Characters that stand in a JSON string as they are.
const CodeSet kPlain = {{0x20, '"' - 1}, {'"' + 1, '\\' - 1}, {'\\' + 1, kMaxCode}};
// Characters of text that is not JSON: no control characters except tab, line feed and carriage
// return.
const CodeSet kRaw = {{'\t', '\n'}, {'\r', '\r'}, {0x20, kMaxCode}};

constexpr std::string_view kHexDigits = "0123456789abcdefABCDEF";

int32_t hex(Grammar& g, std::string_view digits, int32_t next) {
  std::vector<Grammar::Edge> edges;
  for (const char c : digits) edges.push_back(Grammar::edge(c, next));
  return g.bytes(edges);
}

int32_t digits(Grammar& g, int count, int32_t next) {  // 0 to count
  int32_t node = next;
  for (int i = 0; i < count; ++i) node = g.split({g.bytes({{'0', '9', node}}), next});
  return node;
}

std::string escaped(uint32_t code) {
  switch (code) {
    case '"':
      return "\\\"";
    case '\\':
      return "\\\\";
    case '\b':
      return "\\b";
    case '\f':
      return "\\f";
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    default:
      return fmt::format("\\u{:04x}", code);
  }
}

// A text in which the bar never follows "<" or "</". `plain`: the characters of the text. `more`:
// further edges of every state (such as escapes), given the state to return to. `ends`: what may
// follow the text, -1 if `more` says how it ends.
template <class More>
int32_t text_without_markers(Grammar& g, const CodeSet& plain, More more, int32_t ends) {
  const int32_t normal = g.reserve(), after_less = g.reserve(), after_slash = g.reserve();
  const auto fill = [&](int32_t state, const CodeSet& back, std::vector<Grammar::Edge> edges) {
    for (const Grammar::Edge& e : utf8_edges(g, back, normal)) edges.push_back(e);
    for (const Grammar::Edge& e : more(normal)) edges.push_back(e);
    edges.push_back(Grammar::edge('<', after_less));
    std::vector<int32_t> targets = {g.bytes(edges)};
    if (ends >= 0) targets.push_back(ends);
    g.fill(state, targets);
  };
  const CodeSet no_less = without(plain, {{'<', '<'}});
  const CodeSet no_bar = without(no_less, {{kBar, kBar}});
  fill(normal, no_less, {});
  fill(after_less, without(no_bar, {{'/', '/'}}), {Grammar::edge('/', after_slash)});
  fill(after_slash, no_bar, {});
  return normal;
}

}  // namespace

JsonGrammar::JsonGrammar(Grammar& grammar) : grammar_(grammar) {
  Grammar& g = grammar_;
  indent_ = g.add_rule("line break");
  int32_t spaces = Grammar::kEnd;
  for (int i = 0; i < kMaxIndent; ++i) spaces = g.split({g.byte(' ', spaces), Grammar::kEnd});
  int32_t tabs = Grammar::kEnd;
  for (int i = 0; i < kMaxIndent / 4; ++i) tabs = g.split({g.byte('\t', tabs), Grammar::kEnd});
  g.set_start(indent_, g.byte('\n', g.split({spaces, tabs})));

  string_ = g.add_rule("string");
  g.set_start(string_, string_body());
  json_character_ = g.add_rule("character");
  std::vector<Grammar::Edge> edges = utf8_edges(g, without(kPlain, {{kBar, kBar}}), Grammar::kEnd);
  edges.push_back(Grammar::edge('\\', escape(Grammar::kEnd)));
  g.set_start(json_character_, g.bytes(edges));
  raw_character_ = g.add_rule("character");
  g.set_start(raw_character_, g.bytes(utf8_edges(g, without(kRaw, {{kBar, kBar}}), Grammar::kEnd)));
  number_ = g.add_rule("number");
  g.set_start(number_, number_body());

  value_ = g.add_rule("value");
  object_ = g.add_rule("object");
  const int32_t members = list(
      '{', '}', [&](int32_t next) { return string(colon(value(next))); }, Grammar::kEnd);
  const int32_t items = list(
      '[', ']', [&](int32_t next) { return value(next); }, Grammar::kEnd);
  g.set_start(object_, members);
  g.set_start(value_, g.split({members, items, string(Grammar::kEnd), number(Grammar::kEnd),
                               g.any_of({"true", "false", "null"}, Grammar::kEnd)}));
}

int32_t JsonGrammar::space(int32_t next) const {
  return grammar_.split({next, grammar_.byte(' ', next), grammar_.call(indent_, next)});
}

int32_t JsonGrammar::colon(int32_t next) const {
  return grammar_.byte(':', grammar_.split({next, grammar_.byte(' ', next)}));
}

// A surrogate comes only as the first half of a pair, and never alone.
int32_t JsonGrammar::escape(int32_t next) const {
  Grammar& g = grammar_;
  const int32_t two = hex(g, kHexDigits, hex(g, kHexDigits, next));
  const int32_t low_half = g.literal("\\u", hex(g, "dD", hex(g, "cdefCDEF", two)));
  const int32_t high_half = hex(g, "89abAB", hex(g, kHexDigits, hex(g, kHexDigits, low_half)));
  const int32_t after_d = g.split({hex(g, "01234567", two), high_half});
  const int32_t code =
      g.split({hex(g, "0123456789abcefABCEF", hex(g, kHexDigits, two)), hex(g, "dD", after_d)});
  std::vector<Grammar::Edge> edges = {Grammar::edge('u', code)};
  for (const char c : std::string_view("\"\\/bfnrt")) edges.push_back(Grammar::edge(c, next));
  return g.bytes(edges);
}

int32_t JsonGrammar::string_body() const {
  const auto more = [&](int32_t back) -> std::vector<Grammar::Edge> {
    return {Grammar::edge('\\', escape(back)), Grammar::edge('"', Grammar::kEnd)};
  };
  return grammar_.byte('"', text_without_markers(grammar_, kPlain, more, -1));
}

int32_t JsonGrammar::raw_text(int32_t next) const {
  const auto more = [](int32_t) { return std::vector<Grammar::Edge>(); };
  return text_without_markers(grammar_, kRaw, more, next);
}

int32_t JsonGrammar::number_body() const {
  Grammar& g = grammar_;
  const int32_t end = Grammar::kEnd;
  const int32_t exponent_digits = g.bytes({{'0', '9', digits(g, 1, end)}});
  const int32_t sign = g.split(
      {exponent_digits, g.bytes({{'+', '+', exponent_digits}, {'-', '-', exponent_digits}})});
  const int32_t exponent = g.split({end, g.bytes({{'e', 'e', sign}, {'E', 'E', sign}})});
  const int32_t fraction = g.byte('.', g.bytes({{'0', '9', digits(g, kMaxDigits - 1, exponent)}}));
  const int32_t tail = g.split({fraction, exponent});
  const int32_t whole = g.bytes({{'0', '0', tail}, {'1', '9', digits(g, kMaxDigits - 1, tail)}});
  return g.split({whole, g.byte('-', whole)});
}

int32_t JsonGrammar::constant(const OrderedJson& value, int32_t next) const {
  Grammar& g = grammar_;
  if (value.is_string()) {
    return g.literal("\"" + json_spelling(value.get_ref<const std::string&>()) + "\"", next);
  }
  if (!value.is_structured()) return g.literal(python_dumps(value), next);
  const bool is_object = value.is_object();
  if (value.empty()) return g.literal(is_object ? "{}" : "[]", next);
  int32_t node = space(g.byte(is_object ? '}' : ']', next));
  bool last = true;
  for (auto it = value.end(); it != value.begin();) {
    --it;
    if (!last) node = g.byte(',', space(node));
    last = false;
    node = constant(*it, node);
    if (is_object) node = g.literal("\"" + json_spelling(it.key()) + "\"", colon(node));
  }
  return g.byte(is_object ? '{' : '[', space(node));
}

int32_t JsonGrammar::character(const CodeSet& set, Spelling spelling, int32_t next) const {
  Grammar& g = grammar_;
  if (spelling == Spelling::raw) {
    return g.bytes(utf8_edges(g, without(set, {{kBar, kBar}}), next));
  }
  CodeSet escapes = complement(kPlain);
  std::vector<std::string> texts;
  const auto contains = [&](uint32_t code) {
    for (const CodeRange& r : set)
      if (r.low <= code && code <= r.high) return true;
    return false;
  };
  for (const CodeRange& r : escapes) {
    for (uint32_t code = r.low; code <= r.high; ++code)
      if (contains(code)) texts.push_back(escaped(code));
  }
  if (contains(kBar)) texts.push_back(escaped(kBar));
  escapes.push_back({kBar, kBar});
  const int32_t as_is = g.bytes(utf8_edges(g, without(set, escapes), next));
  return texts.empty() ? as_is : g.split({as_is, g.any_of(std::move(texts), next)});
}

std::string json_spelling(std::string_view text) {
  std::string spelled;
  for (size_t i = 0; i < text.size();) {
    const Utf8Step step = utf8_step(text, i);
    const bool marks = step.code == kBar && (spelled.ends_with('<') || spelled.ends_with("</"));
    if (marks || step.code < 0x20 || step.code == '"' || step.code == '\\') {
      spelled += escaped(step.code);
    } else {
      spelled += text.substr(i, step.length);
    }
    i += step.length;
  }
  return spelled;
}

}  // namespace fathom
