// JSON read byte by byte: the same texts as the parser of whole texts, and closed where it stands.
#include "text/json_progress.h"

#include <gtest/gtest.h>

#include <random>

#include "text/python_json.h"

namespace fathom {
namespace {

bool reads(const std::string& text) {
  JsonProgress json;
  for (const char c : text)
    if (!json.push(c)) return false;
  return json.complete();
}

TEST(JsonProgress, AcceptsWhatTheParserAccepts) {
  for (const std::string text : {"{}",
                                 "[]",
                                 " { } ",
                                 "[1,2]",
                                 "[1,]",
                                 "[,1]",
                                 "{,}",
                                 "{\"a\":1,}",
                                 "{\"a\" : [ ] }",
                                 "1",
                                 "01",
                                 "-",
                                 "-0",
                                 "-01",
                                 "1.",
                                 "1.5",
                                 ".5",
                                 "1e5",
                                 "1E+05",
                                 "1e",
                                 "1e-",
                                 "1e999",
                                 "-1e999",
                                 "1e-999",
                                 "true",
                                 "tru",
                                 "truee",
                                 "null",
                                 "nul",
                                 "false",
                                 "\"\"",
                                 "\"a",
                                 "\"\\\"\"",
                                 "\"\\x\"",
                                 "\"\\u12\"",
                                 "\"\\u1234\"",
                                 "\"\\ud83d\\ude00\"",
                                 "\"\\ud83d\"",
                                 "\"\\ude00\"",
                                 "\"\\ud83d\\n\"",
                                 "\"\\ud83dx\"",
                                 "\"\\ud83d\\ud83d\"",
                                 "\"\\uD83D\\uDE00x\"",
                                 "\"\n\"",
                                 "\"é🙂\"",
                                 "{\"a\":{\"b\":[1,{\"c\":null}]}}",
                                 "{\"a\"}",
                                 "{1:2}",
                                 "{\"a\":}",
                                 "[1 2]",
                                 "[1]]",
                                 "",
                                 " ",
                                 "\t[\r\n1 ,2]\n",
                                 "{\"a\":1 \"b\":2}",
                                 "+1",
                                 "1 2",
                                 "--1",
                                 "[\"a\":1]",
                                 "{]",
                                 "[}",
                                 "[1}",
                                 "{\"a\":1]"}) {
    EXPECT_EQ(reads(text), OrderedJson::accept(text)) << text;
  }
}

// Random soup of JSON's parts: what is accepted agrees, and the closed beginning is JSON that keeps
// what was read.
TEST(JsonProgress, AnyBeginningCanBeClosed) {
  const std::vector<std::string> parts = {
      "{", "}",  "[",  "]", ",",       ":",       "\"a\"", "\"b\":", "1", "-2.5e3", "true", "null",
      " ", "\"", "\\", "u", "\\ud83d", "\\ude00", "é",     "x",      "0", ".",      "\n"};
  std::mt19937 rng(7);
  size_t whole = 0;
  for (int i = 0; i < 30'000; ++i) {
    std::string text;
    JsonProgress json;
    bool good = true;
    for (size_t n = rng() % 12 + 1; n > 0 && good; --n) {
      // From among the parts that may follow, so that texts grow long.
      for (int tries = 0; tries < 6; ++tries) {
        const std::string& part = parts[rng() % parts.size()];
        JsonProgress next = json;
        good = true;
        for (const char c : part) good = good && next.push(c);
        if (!good && tries < 5) continue;
        json = next;
        text += part;
        break;
      }
    }
    const bool complete = good && json.complete();
    ASSERT_EQ(complete, OrderedJson::accept(text)) << text;
    whole += complete;
    if (!good) continue;
    if (const auto closed = json.closed(text); closed && !json.complete()) {
      ASSERT_TRUE(OrderedJson::accept(*closed)) << text << "\n" << *closed;
      const size_t shared =
          std::mismatch(text.begin(), text.end(), closed->begin(), closed->end()).first -
          text.begin();
      EXPECT_GE(shared + 60, text.size()) << text;
    }
  }
  EXPECT_GT(whole, 300u);
}

TEST(JsonProgress, ClosedObjects) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "{}"},
      {" ", "{}"},
      {"{", "{}"},
      {"{\"a", "{}"},
      {"{\"a\": ", "{}"},
      {"{\"a\": \"x", "{\"a\": \"x\"}"},
      {"{\"a\": \"x\\", "{\"a\": \"x\"}"},
      {"{\"a\": \"x\\ud83d\\u", "{\"a\": \"x\"}"},
      {"{\"a\": \"x\\ud83d\\ude00", "{\"a\": \"x\\ud83d\\ude00\"}"},
      {"{\"a\": 12", "{}"},
      {"{\"a\": 12,", "{\"a\": 12}"},
      {"{\"a\": tr", "{}"},
      {"{\"a\": true, \"b\": [1, [\"x", "{\"a\": true, \"b\": [1, [\"x\"]]}"},
      {"{\"a\": {\"b\": {}", "{\"a\": {\"b\": {}}}"},
      {"{\"a\": 1} ", "{\"a\": 1} "},
  };
  for (const auto& [text, closed] : cases) EXPECT_EQ(closed_json_object(text), closed) << text;
  for (const char* bad : {"x", "[1", "{a", "{\"a\": 01", "{}}"})
    EXPECT_FALSE(closed_json_object(bad)) << bad;
}

TEST(JsonProgress, Limits) {
  const auto nested = [](int depth) { return std::string(static_cast<size_t>(depth), '['); };
  JsonProgress json, inside(1);
  for (const char c : nested(kMaxJsonDepth)) EXPECT_TRUE(json.push(c));
  EXPECT_FALSE(json.push('['));
  for (const char c : nested(kMaxJsonDepth - 1)) EXPECT_TRUE(inside.push(c));
  EXPECT_FALSE(inside.push('['));
  std::string members = "{";
  for (int64_t i = 0; i < kMaxJsonMembers; ++i) members += (i ? ",\"a\":0" : "\"a\":0");
  EXPECT_TRUE(reads(members + "}"));
  EXPECT_FALSE(reads(members + ",\"a\":0}"));
}

}  // namespace
}  // namespace fathom
