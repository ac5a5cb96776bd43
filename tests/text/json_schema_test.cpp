// Schemas that are refused, with the place and what is accepted; numbers and patterns one by one.
#include "text/grammar/json_schema.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "constraint_data.h"
#include "text/grammar/grammar_number.h"
#include "text/grammar/grammar_regex.h"
#include "text/grammar/grammar_state.h"
#include "text/utf8.h"

namespace fathom {
namespace {

using namespace test;
using testing::HasSubstr;

std::string refusal(const AnswerForm& form, Encoding encoding = Encoding::v31) {
  ConstraintFactory factory(small_tokenizer(), encoding, {kStop});
  const auto result = factory.compile(form);
  if (result.ok()) return "";
  EXPECT_EQ(result.failure().status, 400);
  return result.failure().message;
}

std::string refusal(const std::string& schema) { return refusal(schema_form(schema)); }

TEST(JsonSchema, RefusalsNameThePlace) {
  const std::pair<const char*, const char*> cases[] = {
      {R"j({"type":"array","items":{"not":{"type":"null"}}})j",
       "schema.items.not: not supported; say with type, enum or anyOf what is allowed"},
      {R"j({"type":"object","properties":{"a":{}},"patternProperties":{"b":{}}})j",
       "schema.patternProperties: enforced only as a single pattern without properties"},
      {R"j({"allOf":[]})j", "schema.allOf: expected a list of one schema or more"},
      {R"j({"allOf":[{"pattern":"a"},{"pattern":"b"}]})j",
       "schema.allOf[1].pattern: two different pattern of one value are not supported"},
      {R"j({"type":"text"})j",
       "schema.type: expected one of object, array, string, number, integer, boolean, null, or a "
       "list of them, found \"text\""},
      {R"j({"type":[]})j", "schema.type: an empty list allows no value"},
      {R"j([])j", "schema: expected a schema, found an array"},
      {R"j(null)j", "schema: expected a schema, found null"},
      {R"j(false)j", "schema: no value follows the schema false"},
      {R"j({"type":"object","properties":[]})j",
       "schema.properties: expected an object, found an array"},
      {R"j({"type":"object","properties":{"a":{}},"required":["b"],"additionalProperties":false})j",
       "schema.required: \"b\" is not the name of one of the properties"},
      {R"j({"type":"object","required":"a"})j", "schema.required: expected a list, found a string"},
      {R"j({"type":"object","additionalProperties":3})j",
       "schema.additionalProperties: expected false, true or a schema, found a number"},
      {R"j({"$ref":"http://x/y"})j",
       "schema.$ref: expected \"#\" or a place in this schema such as \"#/$defs/name\", found "
       "\"http://x/y\""},
      {R"j({"$ref":"#/$defs/a"})j", "schema.$ref: \"#/$defs/a\" leads nowhere"},
      {R"j({"anyOf":[]})j", "schema.anyOf: expected a list of one schema or more"},
      {R"j({"enum":[]})j", "schema.enum: expected a list of one value or more"},
      {R"j({"enum":["a"],"type":"integer"})j",
       "schema.enum: no value is of the type that is asked for"},
      {R"j({"enum":["a"],"maxLength":3})j", "schema.maxLength: not supported beside enum"},
      {R"j({"type":"string","format":"color"})j",
       "schema.format: \"color\" is not supported; accepted are date-time, date, time, duration, "
       "email, hostname, ipv4, ipv6, uri, uuid"},
      {R"j({"type":"string","minLength":3,"maxLength":2})j",
       "schema: minLength 3 is more than maxLength 2"},
      {R"j({"type":"string","minLength":-1})j",
       "schema.minLength: expected an integer from 0 to 1000000000, found -1"},
      {R"j({"type":"string","pattern":"a(?=b)"})j",
       "schema.pattern: 'a(?=b)', at byte 1: look-around is not supported"},
      {R"j({"type":"string","pattern":"(a)\\1"})j",
       "schema.pattern: '(a)\\1', at byte 3: back references are not supported"},
      {R"j({"type":"string","pattern":"\\bword"})j",
       "schema.pattern: '\\bword', at byte 0: word boundaries are not supported"},
      {R"j({"type":"string","pattern":"\\p{L}"})j",
       "schema.pattern: '\\p{L}', at byte 0: properties of characters are not supported; name the "
       "characters"},
      {R"j({"type":"string","pattern":"a^b"})j",
       "schema.pattern: 'a^b', at byte 1: ^ and $ are understood at the ends of the pattern only"},
      {R"j({"type":"string","pattern":"(a"})j",
       "schema.pattern: '(a', at byte 0: the group that begins here does not end"},
      {R"j({"type":"string","pattern":"a)"})j",
       "schema.pattern: 'a)', at byte 1: there is no group to close here"},
      {R"j({"type":"string","pattern":"[a"})j",
       "schema.pattern: '[a', at byte 0: the class that begins here does not end"},
      {R"j({"type":"string","pattern":"[z-a]"})j",
       "schema.pattern: '[z-a]', at byte 2: this range has no beginning or end"},
      {R"j({"type":"string","pattern":"*"})j",
       "schema.pattern: '*', at byte 0: there is nothing to repeat in front of it"},
      {R"j({"type":"string","pattern":"a{5,2}"})j",
       "schema.pattern: 'a{5,2}', at byte 1: the counts are in the wrong order"},
      {R"j({"type":"string","pattern":"a{2000}"})j",
       "schema.pattern: 'a{2000}', at byte 1: at most 1000 times"},
      {R"j({"type":"string","pattern":"^[^\\s\\S]$"})j",
       "schema: no finite answer can follow it (a required part contains itself, or has no "
       "possible value)"},
      {R"j({"type":"number","minimum":1e30})j",
       "schema.minimum: 1e+30 has more than 18 digits in front of or behind the point"},
      {R"j({"type":"number","minimum":"1"})j", "schema.minimum: expected a number, found a string"},
      {R"j({"type":"integer","multipleOf":0.3})j",
       "schema.multipleOf: accepted are 1 to 1000, and 0.1, 0.01, ..."},
      {R"j({"type":"integer","minimum":4,"maximum":3})j", "schema: no number is from 4 to 3"},
      {R"j({"type":"array","prefixItems":[{}],"minItems":2})j",
       "schema: minItems 2 is more than the 1 items described"},
      {R"j({"type":"array","minItems":3,"maxItems":2})j",
       "schema: minItems 3 is more than maxItems 2"},
      {R"j({"type":"object","properties":{"n":{"$ref":"#"}},"required":["n"]})j",
       "schema: no finite answer can follow it (a required part contains itself, or has no "
       "possible value)"},
      {R"j({"anyOf":[{"$ref":"#"},{"type":"null"}]})j",
       "schema: it refers to itself with nothing in between"},
  };
  for (const auto& [schema, message] : cases) EXPECT_EQ(refusal(schema), message) << schema;
  EXPECT_THAT(
      refusal(R"j({"type":"array","uniqueItems":true})j"),
      HasSubstr("schema.uniqueItems: enforced only for items that are one of at most 8 values"));
}

TEST(JsonSchema, LimitsAreChecked) {
  std::string nested = R"j({"type":"null"})j";
  for (int i = 0; i < 10; ++i) nested = R"({"type":"array","items":)" + nested + "}";
  EXPECT_EQ(refusal(nested), "");
  nested = R"({"type":"array","items":)" + nested + "}";
  EXPECT_THAT(refusal(nested), HasSubstr("objects and arrays are nested more than 10 levels deep"));

  std::string any = R"j({"type":"null"})j";
  for (int i = 0; i < 100; ++i) any = R"({"anyOf":[)" + any + "]}";
  EXPECT_THAT(refusal(any), HasSubstr("schemas are nested more than 64 deep"));

  const auto object_of = [](int count, bool required) {
    OrderedJson schema = {{"type", "object"}, {"properties", OrderedJson::object()}};
    for (int i = 0; i < count; ++i) {
      const std::string name = "p" + std::to_string(i);
      schema["properties"].push_back({name, {{"type", "null"}}});
      if (required) schema["required"].push_back(name);
    }
    return schema.dump();
  };
  EXPECT_EQ(refusal(object_of(5000, true)), "");
  EXPECT_EQ(refusal(object_of(5001, true)),
            "schema.properties.p5000: more than 5000 properties in all");
  EXPECT_EQ(refusal(object_of(1000, false)), "");
  EXPECT_THAT(refusal(object_of(1001, false)),
              HasSubstr("more than 1000 properties in a row that are not required"));

  const auto chain_of = [](int count) {
    OrderedJson schema = {{"$ref", "#/$defs/d0"}};
    for (int i = 0; i < count; ++i) {
      schema["$defs"]["d" + std::to_string(i)] =
          i + 1 < count ? OrderedJson{{"$ref", "#/$defs/d" + std::to_string(i + 1)}}
                        : OrderedJson{{"type", "null"}};
    }
    return schema.dump();
  };
  EXPECT_EQ(refusal(chain_of(1000)), "");
  EXPECT_THAT(refusal(chain_of(1001)), HasSubstr("references to more than 1000 schemas in all"));

  OrderedJson values = {{"enum", OrderedJson::array()}};
  for (int i = 0; i < 1000; ++i) values["enum"].push_back("v" + std::to_string(i));
  EXPECT_EQ(refusal(values.dump()), "");
  values["enum"].push_back("more");
  EXPECT_EQ(refusal(values.dump()), "schema.enum: the enums have more than 1000 values in all");
  OrderedJson long_values = {{"enum", OrderedJson::array()}};
  for (int i = 0; i < 251; ++i)
    long_values["enum"].push_back(std::string(60, 'x') + std::to_string(i));
  EXPECT_THAT(refusal(long_values.dump()),
              HasSubstr("an enum of more than 250 values may have 15000"));
  EXPECT_THAT(refusal(OrderedJson{{"const", std::string(120001, 'x')}}.dump()),
              HasSubstr("more than 120000 bytes"));
  EXPECT_THAT(refusal(R"j({"type":"string","pattern":"((.{1000}){1000}){1000}"})j"),
              HasSubstr("the form is too large"));
  EXPECT_EQ(refusal(R"j({"type":"string","pattern":"((((){1000}){1000}){1000}){1000}a"})j"), "");
}

TEST(JsonSchema, ReferencesLeadAnywhereInTheSchema) {
  EXPECT_EQ(
      refusal(
          R"j({"type":"object","properties":{"a/b~c":{"type":"null"},"d":{"$ref":"#/properties/a~1b~0c"}}})j"),
      "");
  EXPECT_EQ(
      refusal(R"j({"anyOf":[{"type":"null"},{"type":"array","items":{"$ref":"#/anyOf/0"}}]})j"),
      "");
  EXPECT_EQ(refusal(R"j({"definitions":{"a":{"type":"null"}},"$ref":"#/definitions/a"})j"), "");
}

TEST(JsonSchema, ToolsAreRefusedByTheirPlace) {
  const auto tools = [](const char* json, Encoding encoding) {
    AnswerForm form;
    form.kind = AnswerForm::Kind::tool_calls;
    for (const OrderedJson& t : OrderedJson::parse(json)) form.tools.push_back(t);
    return refusal(form, encoding);
  };
  for (const Encoding e : {Encoding::v31, Encoding::v32}) {
    EXPECT_EQ(tools("[]", e), "tools: a tool call is required, but there is no tool");
    EXPECT_EQ(tools("[3]", e), "tools[0]: expected a function, found a number");
    EXPECT_EQ(tools("[{}]", e), "tools[0].name: expected the function's name");
    EXPECT_EQ(tools(R"j([{"name":"a"},{"name":"b\">"}])j", e),
              "tools[1].name: a name in a tool call has no white space, quotation marks or angle "
              "brackets, found \"b\\\">\"");
    EXPECT_EQ(tools(R"j([{"name":"a","parameters":{"type":"string"}}])j", e),
              "tools[0].parameters.type: expected \"object\"");
    EXPECT_EQ(
        tools(R"j([{"name":"a","parameters":{"type":"object","properties":{"x":{"oneOf":[]}}}}])j",
              e),
        "tools[0].parameters.properties.x.oneOf: expected a list of one schema or more");
    EXPECT_EQ(tools(R"j([{"name":"a","parameters":{"$ref":"#"}}])j", e),
              "tools[0].parameters: it refers to itself with nothing in between");
    EXPECT_EQ(tools(R"j([{"name":"a","parameters":{"enum":[{}]}}])j", e),
              "tools[0].parameters.enum: not supported here; expected the schema of an object with "
              "properties");
    EXPECT_EQ(tools(R"j([{"name":"a","parameters":{"anyOf":[{"type":"object"}]}}])j", e), "");
    // By the place in the client's request, where that is known.
    AnswerForm form;
    form.kind = AnswerForm::Kind::tool_calls;
    form.tools = {OrderedJson::parse(
        R"j({"name":"a","strict":true,"parameters":{"type":"object","properties":{"x":{"if":{}}}}})j")};
    form.tool_places = {"tools[3].input_schema"};
    form.strict_tools = false;
    EXPECT_EQ(refusal(form, e), "tools[3].input_schema.properties.x.if: not supported; use anyOf");
    form.tools[0].erase("strict");
    EXPECT_EQ(refusal(form, e), "");
  }
  EXPECT_THAT(tools(R"j([{"name":"a","parameters":{"type":"object","properties":{"x y":{}}}}])j",
                    Encoding::v32),
              HasSubstr("tools[0].parameters.properties.x y: a name in a tool call"));
  EXPECT_THAT(
      tools(
          R"j([{"name":"a","parameters":{"type":"object","properties":{"x":{"enum":["</｜DSML｜x"]}}}}])j",
          Encoding::v32),
      HasSubstr("tools[0].parameters.properties.x.enum: a value holds the beginning of a marker"));
}

// Whether a grammar accepts exactly this text.
class Recogniser {
 public:
  template <class Make>
  explicit Recogniser(Make make) : json_(grammar_) {
    const int32_t rule = grammar_.add_rule("test");
    start_ = make(json_, Grammar::kEnd);
    grammar_.set_start(rule, start_);
    possible_ = true;
    try {
      grammar_.seal(rule);
    } catch (const GrammarRefusal&) {
      possible_ = false;
    }
  }

  bool accepts(std::string_view text) const {
    if (!possible_) return false;
    StackPool stacks;
    Follower follower(grammar_, stacks, Grammar::kUnbounded);
    std::vector<Place> places = {{start_, 0}};
    Reach reach;
    for (const char c : text) {
      follower.follow(places, 100, reach);
      follower.targets(reach, static_cast<uint8_t>(c), places);
    }
    follower.follow(places, 100, reach);
    return reach.ends;
  }

 private:
  Grammar grammar_;
  JsonGrammar json_;
  int32_t start_;
  bool possible_;
};

// Every pair of bounds around zero and around a change of the number of digits, every number.
TEST(JsonSchema, IntegersBetweenBounds) {
  const int bounds[] = {-1001, -100, -99, -12, -1, 0, 1, 9, 10, 11, 99, 100, 123, 1000};
  for (const int low : bounds) {
    for (const int high : bounds) {
      for (const uint32_t step : {1u, 3u}) {
        NumberForm form;
        form.whole = true;
        form.multiple_of = step;
        form.low = {*decimal_of(std::to_string(low)), false};
        form.high = {*decimal_of(std::to_string(high)), high == 99};
        const Recogniser r([&](JsonGrammar& json, int32_t next) {
          return number_between(json.grammar(), form, next);
        });
        for (int n = -1105; n <= 1105; n += (n > -130 && n < 130) ? 1 : 5) {
          const bool in = n >= low && (n < high || (n == high && high != 99)) &&
                          n % static_cast<int>(step) == 0;
          ASSERT_EQ(r.accepts(std::to_string(n)), in) << n << " in " << low << " to " << high;
        }
        for (const char* no : {"", "-", "-0", "00", "01", "1.0", "1e1", " 1"})
          ASSERT_FALSE(r.accepts(no)) << no;
      }
    }
  }
}

TEST(JsonSchema, NumbersBetweenBounds) {
  const char* numbers[] = {"-2",    "-1.75", "-1.5", "-1.25", "-1",   "-0.5",
                           "-0.25", "-0.05", "0",    "0.05",  "0.25", "0.5",
                           "1",     "1.25",  "1.5",  "1.75",  "2",    "10.5"};
  for (const char* low : numbers) {
    for (const char* high : numbers) {
      for (const bool excluded : {false, true}) {
        NumberForm form;
        form.low = {*decimal_of(low), excluded};
        form.high = {*decimal_of(high), excluded};
        const Recogniser r([&](JsonGrammar& json, int32_t next) {
          return number_between(json.grammar(), form, next);
        });
        for (const char* number : numbers) {
          const double n = std::stod(number), l = std::stod(low), h = std::stod(high);
          const bool in = excluded ? l < n && n < h : l <= n && n <= h;
          ASSERT_EQ(r.accepts(number), in) << number << " in " << low << " to " << high;
          if (std::string_view(number).find('.') == std::string_view::npos) continue;
          ASSERT_EQ(r.accepts(std::string(number) + "0"), in) << number;
        }
      }
    }
  }
}

TEST(JsonSchema, DecimalsAreReadAsTheyAreWritten) {
  const auto is = [](const char* text, bool negative, const char* whole, const char* fraction) {
    EXPECT_EQ(decimal_of(text), (Decimal{negative, whole, fraction})) << text;
  };
  is("0", false, "0", "");
  is("-0.0", false, "0", "");
  is("-12.50", true, "12", "5");
  is("1.25e1", false, "12", "5");
  is("125e-3", false, "0", "125");
  is("1e3", false, "1000", "");
  is("1E+02", false, "100", "");
  EXPECT_FALSE(decimal_of("1e18"));
  EXPECT_FALSE(decimal_of("1e-19"));
  EXPECT_FALSE(decimal_of("1e999999999999"));
}

TEST(JsonSchema, Patterns) {
  struct Case {
    const char* pattern;
    std::vector<const char*> in, out;
  };
  const Case cases[] = {
      {"^(foo|bar)?$", {"", "foo", "bar"}, {"fo", "foobar"}},
      {"^a*b+c?$", {"b", "aabbc"}, {"", "ac", "bcc"}},
      {"^a{2}b{1,}c{0,2}$", {"aab", "aabbbcc"}, {"ab", "aabccc"}},
      {"^a{,2}$", {"a{,2}"}, {"", "a"}},
      {"^[^a-z\\d]$", {"A", "é", "🙂", "-"}, {"a", "5", ""}},
      {"^[]a]$", {}, {"a", "]"}},
      {"^[\\]a-]+$", {"]", "a-]"}, {"b"}},
      {"^\\w+\\s\\S\\D\\W$", {"a_1 xy."}, {"a 1 1 ", "a1xy."}},
      {"^.\\.\\/\\$$", {"x./$", "🙂./$"}, {"\n./$", "xx/$"}},
      {"^\\u00e9\\x41\\u{1F642}\\t$", {"éA🙂\t"}, {"eA🙂\t"}},
      {"^(?:a|(?<name>b))+?$", {"a", "abba"}, {"", "c"}},
      {"^(a|b*)*$", {"", "abab"}, {"c"}},
      {"b", {"b", "abc"}, {"", "ac"}},
      {"", {"", "anything"}, {}},
      {"^$", {""}, {"a"}},
      {"^a|^b$|c$", {"ax", "b", "xc"}, {"bx", "cx", "xb"}},
  };
  for (const Case& c : cases) {
    const Recogniser r([&](JsonGrammar& json, int32_t next) {
      return matching(json, c.pattern, Spelling::raw, "pattern", next);
    });
    for (const char* text : c.in) EXPECT_TRUE(r.accepts(text)) << c.pattern << " " << text;
    for (const char* text : c.out) EXPECT_FALSE(r.accepts(text)) << c.pattern << " " << text;
  }
}

TEST(JsonSchema, CharactersAreExactlyTheirUtf8) {
  const CodeSet sets[] = {{{0, kMaxCode}},
                          {{0x7F, 0x80}, {0x7FF, 0x800}},
                          {{0xD000, 0xE000}},
                          {{0xFFFF, 0x10000}, {0x10FFFF, 0x10FFFF}},
                          {{0x3041, 0x30FF}, {0x4E00, 0x9FA5}}};
  for (const CodeSet& set : sets) {
    const Recogniser r([&](JsonGrammar& json, int32_t next) {
      return json.grammar().bytes(utf8_edges(json.grammar(), set, next));
    });
    for (uint32_t code = 0; code <= kMaxCode; code += code < 0x3000 ? 1 : 29) {
      for (const uint32_t c : {code, code ^ 1}) {
        if (c >= 0xD800 && c <= 0xDFFF) continue;
        const bool in = std::any_of(set.begin(), set.end(), [&](const CodeRange& range) {
          return range.low <= c && c <= range.high;
        });
        std::string text;
        append_utf8(text, c);
        ASSERT_EQ(r.accepts(text), in) << c;
      }
    }
    for (const char* bad : {"\x80", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE0\x80\x80"})
      EXPECT_FALSE(r.accepts(bad));
  }
}

}  // namespace
}  // namespace fathom
