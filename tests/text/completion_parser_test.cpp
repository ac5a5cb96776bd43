// Completions read back: whatever the chunks, well formed or not.
#include "text/completion_parser.h"

#include <gtest/gtest.h>

#include <random>

#include "base/error.h"
#include "text/json_limits.h"
#include "text/utf8.h"
#include "text_data.h"

namespace fathom {
namespace {

using Kind = CompletionEvent::Kind;

// What a client that only listens to events has at the end.
struct Heard {
  std::string reasoning, content;
  std::vector<ToolCall> calls;
  size_t ended = 0;  // of the calls

  void add(const CompletionParser::Events& events) {
    for (const CompletionEvent& e : events) {
      EXPECT_FALSE(first_invalid_utf8(e.text)) << "half a character";
      if (e.kind == Kind::reasoning) reasoning += e.text;
      if (e.kind == Kind::content) content += e.text;
      if (e.kind == Kind::tool_name) {
        EXPECT_EQ(e.call, calls.size());
        calls.push_back({"call_" + std::to_string(e.call), e.text, ""});
      }
      if (e.kind == Kind::tool_arguments) {
        EXPECT_EQ(e.call + 1, calls.size());
        EXPECT_EQ(ended, e.call) << "arguments behind the end of their call";
        calls.at(e.call).arguments += e.text;
      }
      if (e.kind == Kind::tool_end) {
        EXPECT_EQ(e.call, ended);
        ++ended;
      }
    }
  }
};

Message parsed(Encoding encoding, bool thinking, const std::vector<std::string>& chunks,
               bool cut = false, int* unreadable = nullptr) {
  CompletionParser parser(encoding, thinking);
  Heard heard;
  for (const std::string& chunk : chunks) {
    heard.add(parser.feed(chunk));
    if (chunk.size() == 1) {
      EXPECT_LE(parser.undecided(), 2 * kMaxDsmlTag);
    }
  }
  heard.add(parser.finish(cut));
  EXPECT_EQ(parser.undecided(), 0u);
  EXPECT_EQ(heard.ended, heard.calls.size());
  if (unreadable) *unreadable = parser.unreadable_calls();
  const Message& m = parser.message();
  EXPECT_EQ(heard.reasoning, m.reasoning_content);
  EXPECT_EQ(heard.content, m.content);
  EXPECT_EQ(heard.calls, m.tool_calls);
  EXPECT_EQ(parser.finish_reason(), m.tool_calls.empty() ? "stop" : "tool_calls");
  return m;
}

void expect_same(const Message& a, const Message& b, const std::string& text) {
  ASSERT_EQ(a.reasoning_content, b.reasoning_content) << text;
  ASSERT_EQ(a.content, b.content) << text;
  ASSERT_EQ(a.tool_calls, b.tool_calls) << text;
}

// Whole, cut at every place, and byte by byte: one message.
Message read_all_ways(Encoding encoding, bool thinking, const std::string& text) {
  const Message whole = parsed(encoding, thinking, {text});
  std::vector<std::string> bytes;
  for (size_t cut = 0; cut < text.size(); ++cut) {
    expect_same(parsed(encoding, thinking, {text.substr(0, cut), text.substr(cut)}), whole, text);
    bytes.push_back(text.substr(cut, 1));
  }
  expect_same(parsed(encoding, thinking, bytes), whole, text);
  return whole;
}

const std::string kCallV31 =
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>find<｜tool▁sep｜>{\"q\": 1}<｜tool▁call▁end｜>"
    "<｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
const std::string kCallV32 =
    "\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"find\">\n"
    "<｜DSML｜parameter name=\"s\" string=\"true\">two\nlines \"ü\"</｜DSML｜parameter>\n"
    "<｜DSML｜parameter name=\"n\" string=\"false\">[1, {\"a\": null}]</｜DSML｜parameter>\n"
    "</｜DSML｜invoke>\n<｜DSML｜invoke "
    "name=\"now\">\n\n</｜DSML｜invoke>\n</｜DSML｜function_calls>";

TEST(CompletionParser, ReasoningAndContent) {
  for (const Encoding e : {Encoding::v31, Encoding::v32}) {
    const Message m =
        read_all_ways(e, true, "Hm é\n</think>Answer 🙂.<｜end▁of▁sentence｜>rest");
    EXPECT_EQ(m.reasoning_content, "Hm é\n");
    EXPECT_EQ(m.content, "Answer 🙂.");
    EXPECT_EQ(read_all_ways(e, true, "</think>C").reasoning_content, "");
    EXPECT_EQ(read_all_ways(e, true, "cut off </thi").reasoning_content, "cut off </thi");
    EXPECT_EQ(read_all_ways(e, true, "<thi").reasoning_content, "<thi");
    EXPECT_EQ(read_all_ways(e, false, "no </think> here\n\n").content, "no </think> here\n\n");
    EXPECT_EQ(read_all_ways(e, false, "").content, "");
  }
}

TEST(CompletionParser, ToolCallsV31) {
  const Message m =
      read_all_ways(Encoding::v31, false, "I look.\n" + kCallV31 + "<｜end▁of▁sentence｜>");
  EXPECT_EQ(m.content, "I look.\n");
  ASSERT_EQ(m.tool_calls.size(), 2u);
  EXPECT_EQ(m.tool_calls[0], (ToolCall{"call_0", "find", "{\"q\": 1}"}));
  EXPECT_EQ(m.tool_calls[1], (ToolCall{"call_1", "now", "{}"}));
}

TEST(CompletionParser, ToolCallsV32) {
  const Message m = read_all_ways(Encoding::v32, true, "R</think>I look." + kCallV32);
  EXPECT_EQ(m.reasoning_content, "R");
  EXPECT_EQ(m.content, "I look.");
  ASSERT_EQ(m.tool_calls.size(), 2u);
  EXPECT_EQ(m.tool_calls[0].name, "find");
  EXPECT_EQ(m.tool_calls[0].arguments, R"({"s": "two\nlines \"ü\"", "n": [1, {"a": null}]})");
  EXPECT_EQ(m.tool_calls[1].arguments, "{}");
}

TEST(CompletionParser, TextAroundCalls) {
  // Space behind the calls is the format's, unless text follows it.
  EXPECT_EQ(read_all_ways(Encoding::v31, false, kCallV31 + "\n \n").content, "");
  EXPECT_EQ(read_all_ways(Encoding::v31, false, "a" + kCallV31 + "\nb\n").content, "a\nb\n");
  EXPECT_EQ(read_all_ways(Encoding::v32, false, "a\n\n\n" + kCallV32.substr(2)).content, "a\n");
  const Message twice = read_all_ways(Encoding::v32, false, kCallV32 + kCallV32);
  EXPECT_EQ(twice.content, "");
  EXPECT_EQ(twice.tool_calls.size(), 4u);
}

// Tool text that is no call from its beginning is content, without the markers.
TEST(CompletionParser, MalformedToolTextIsContent) {
  const std::vector<std::pair<std::string, std::string>> v31 = {
      {"<｜tool▁calls▁begin｜>", ""},
      {"<｜tool▁calls▁begin｜><｜tool▁calls▁end｜>", ""},
      {"<｜tool▁calls▁begin｜>words", "words"},
      {"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
       "f{}"},
      {"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜><｜tool▁sep｜>{}<｜tool▁call▁end｜><"
       "｜tool▁calls▁end｜>",
       "{}"},
      {"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{a}<｜tool▁call▁end｜><"
       "｜tool▁calls▁end｜>",
       "f{a}"},
      {"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>[]<｜tool▁call▁end｜><"
       "｜tool▁calls▁end｜>",
       "f[]"},
      {"<｜tool▁calls▁begin｜><｜tool▁calls▁begin｜><｜tool▁call▁end｜>", ""},
  };
  for (const auto& [bad, text] : v31) {
    const Message m = read_all_ways(Encoding::v31, false, "x " + bad);
    EXPECT_EQ(m.content, "x " + text) << bad;
    EXPECT_TRUE(m.tool_calls.empty());
    int unreadable = 0;
    parsed(Encoding::v31, false, {bad}, false, &unreadable);
    EXPECT_GE(unreadable, 1) << bad;
  }
  const std::string one = kCallV32.substr(0, kCallV32.find("\n<｜DSML｜invoke name=\"now")) +
                          "\n</｜DSML｜function_calls>";
  const std::vector<std::pair<std::string, std::string>> v32 = {
      {"<｜DSML｜parameter name=\"s\"", "x\n\n\nfind\n string=\"true\">two\nlines"},
      {"\">\n<｜DSML｜para", "x\n\n\nfindmeter name=\"s\" string=\"true\">two\nlines"},
      {"find", "x\n\n\n\">\ntwo\nlines"}};
  for (const auto& [from, begin] : v32) {
    std::string bad = one;
    bad.replace(bad.find(from), from.size(), "");
    int unreadable = 0;
    const Message m = read_all_ways(Encoding::v32, false, "x" + bad);
    parsed(Encoding::v32, false, {bad}, false, &unreadable);
    EXPECT_TRUE(m.content.starts_with(begin)) << from << "\n" << m.content;
    EXPECT_EQ(m.content.find("DSML"), m.content.npos) << m.content;
    EXPECT_NE(m.content.find("[1, {\"a\": null}]"), m.content.npos) << m.content;
    EXPECT_TRUE(m.tool_calls.empty());
    EXPECT_EQ(unreadable, 1);
  }
  // A call that is whole stays one, whatever comes behind it.
  const std::string good = kCallV31.substr(0, kCallV31.find("<｜tool▁call▁begin｜>now"));
  const std::vector<std::pair<std::string, std::string>> tails = {
      {"", ""},
      {"words", "words"},
      {"<｜tool▁call▁begin｜>f<｜tool▁call▁end｜>", "f"},
      {"<b", "<b"}};
  for (const auto& [tail, text] : tails) {
    const Message m = read_all_ways(Encoding::v31, false, good + tail);
    EXPECT_EQ(m.content, text);
    ASSERT_EQ(m.tool_calls.size(), 1u);
    EXPECT_EQ(m.tool_calls[0].name, "find");
  }
}

// Of a call that the client knows already the arguments end where they stop being readable.
TEST(CompletionParser, ACallThatBecomesUnreadableEndsThere) {
  const auto v31 = [](const std::string& arguments) {
    return "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>" + arguments +
           "<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
  };
  const auto v32 = [](const std::string& parameters) {
    return "\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n" + parameters +
           "\n</｜DSML｜invoke>\n</｜DSML｜function_calls>";
  };
  const std::string text = "<｜DSML｜parameter name=\"a\" string=\"true\">";
  const std::string other = "<｜DSML｜parameter name=\"b\" string=\"false\">";
  const std::string end = "</｜DSML｜parameter>";
  struct Case {
    Encoding encoding;
    std::string written, arguments, content;
  };
  const std::vector<Case> cases = {
      {Encoding::v31, v31("{\"a\": x}"), "{\"a\": ", "x}"},
      {Encoding::v31, v31("{\"a\": 1}}"), "{\"a\": 1}", "}"},
      {Encoding::v31, v31("{\"a\": 1"), "{\"a\": 1", ""},
      {Encoding::v31, v31("{\"a\": 01}"), "{\"a\": 0", "1}"},
      {Encoding::v31, v31("{\"a\": \"\\ud800\"}"), "{\"a\": \"\\ud800", "\"}"},
      // A parameter opened inside of one that is not closed.
      {Encoding::v32, v32(text + "one " + text + "two" + end), "{\"a\": \"one ", "two"},
      {Encoding::v32, v32(text + "one " + other + "2" + end), "{\"a\": \"one ", "2"},
      {Encoding::v32, v32(other + "[1, " + text + "x" + end), "{\"b\": [1,", "x"},
      {Encoding::v32, v32(text + "one"), "{\"a\": \"one\\n", ""},
      {Encoding::v32, v32(other + "one" + end), "{\"b\": ", "one"},
      {Encoding::v32, v32(other + "1, \"c\": 2" + end), "{\"b\": 1", ", \"c\": 2"},
      {Encoding::v32, v32(other + end), "{\"b\": ", ""},
      {Encoding::v32, v32(text + "1" + end + " and " + other + "2" + end), "{\"a\": \"1\"",
       "and 2"},
  };
  for (const Case& c : cases) {
    const Message m = read_all_ways(c.encoding, false, "x" + c.written);
    ASSERT_EQ(m.tool_calls.size(), 1u) << c.written;
    EXPECT_EQ(m.tool_calls[0], (ToolCall{"call_0", "f", c.arguments})) << c.written;
    EXPECT_TRUE(m.content.starts_with("x" + c.content)) << m.content;
    EXPECT_EQ(m.content.find("DSML"), m.content.npos) << m.content;
    EXPECT_EQ(m.content.find("｜"), m.content.npos) << m.content;
    int unreadable = 0;
    parsed(c.encoding, false, {c.written}, false, &unreadable);
    EXPECT_EQ(unreadable, 1) << c.written;
  }
}

// An answer cut at any byte has no markup in its content, and the call that it was cut in as far as
// that has come.
TEST(CompletionParser, ACutCallIsThePartThatHasCome) {
  for (const Encoding e : {Encoding::v31, Encoding::v32}) {
    const bool v31 = e == Encoding::v31;
    const std::string text = "I look." + (v31 ? kCallV31 : kCallV32);
    const Message whole = parsed(e, false, {text});
    for (const bool thinking : {false, true}) {
      size_t calls = 0, arguments = 0;
      for (size_t size = 7; size <= text.size(); ++size) {
        int unreadable = 0;
        const Message m = parsed(e, thinking, {text.substr(0, size)}, true, &unreadable);
        EXPECT_EQ(unreadable, 0) << text.substr(0, size);
        // A line break alone may be text; with "<" behind two, it is none.
        // So may "<" alone, where markers are no tokens.
        const std::string said = thinking ? m.reasoning_content : m.content;
        EXPECT_TRUE(std::string(v31 ? "I look.<" : "I look.\n\n").starts_with(said)) << said;
        // More of the text, more of the calls.
        ASSERT_GE(m.tool_calls.size(), calls);
        arguments = m.tool_calls.size() > calls ? 0 : arguments;
        calls = m.tool_calls.size();
        if (calls == 0) continue;
        const ToolCall& last = m.tool_calls.back();
        EXPECT_EQ(last.name, whole.tool_calls[calls - 1].name);
        EXPECT_TRUE(whole.tool_calls[calls - 1].arguments.starts_with(last.arguments));
        EXPECT_GE(last.arguments.size(), arguments);
        arguments = last.arguments.size();
      }
      EXPECT_EQ(calls, 2u);
    }
  }
}

// The name is out as soon as arguments begin, and each piece of them with the text it stands for.
TEST(CompletionParser, CallsComeOutAsTheyAreWritten) {
  CompletionParser parser(Encoding::v32, false);
  const auto heard = [&](const std::string& chunk) {
    std::string text;
    for (const auto& e : parser.feed(chunk))
      text += e.kind == Kind::tool_name ? "[" + e.text + "]" : e.text;
    return text;
  };
  EXPECT_EQ(heard("\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"fi"), "");
  EXPECT_EQ(heard("nd\">\n"), "");
  EXPECT_EQ(heard("<｜DSML｜"), "[find]");
  EXPECT_EQ(heard("parameter name=\"s\" string=\"true"), "");
  EXPECT_EQ(heard("\">one\n"), "{\"s\": \"one\\n");
  EXPECT_EQ(heard("two < 3 <"), "two < 3 ");
  EXPECT_EQ(heard("/"), "");
  EXPECT_EQ(heard("b>"), "</b>");
  EXPECT_EQ(heard("\"</｜DSML｜para"), "\\\"");
  EXPECT_EQ(heard("meter>"), "\"");
  EXPECT_EQ(heard("\n<｜DSML｜parameter name=\"n\" string=\"false\"> [1"), ", \"n\": [1");
  EXPECT_EQ(heard(" "), "");
  EXPECT_EQ(heard(", 2] "), " , 2]");
  EXPECT_EQ(heard("</｜DSML｜parameter>\n</｜DSML｜invoke>"), "}");

  CompletionParser v31(Encoding::v31, false);
  std::string text;
  for (const char* chunk : {"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>find<｜tool▁sep｜>{\"", "q",
                            "\": \"a <", "b>\""}) {
    for (const auto& e : v31.feed(chunk))
      text += e.kind == Kind::tool_name ? "[" + e.text + "]" : e.text;
    text += "|";
  }
  EXPECT_EQ(text, "[find]{\"|q|\": \"a |<b>\"|");
}

// A model that calls without ending its reasoning has ended it.
TEST(CompletionParser, ACallInsideTheReasoningEndsIt) {
  for (const Encoding e : {Encoding::v31, Encoding::v32}) {
    const Message m =
        read_all_ways(e, true, "I must look." + (e == Encoding::v31 ? kCallV31 : kCallV32) + "so");
    EXPECT_EQ(m.reasoning_content, "I must look.");
    EXPECT_EQ(m.content, "so");
    EXPECT_EQ(m.tool_calls.size(), 2u);
  }
}

// Where a marker is a token, its characters are text: in values, in content and in reasoning.
TEST(CompletionParser, MarkersThatAreTokensAreNeverText) {
  const std::string literal =
      "</｜DSML｜parameter><｜tool▁call▁end｜><｜tool▁calls▁begin｜><｜end▁of▁sentence｜>";
  CompletionParser v31(Encoding::v31, true,
                       {"<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>",
                        "<｜tool▁call▁end｜>", "<｜tool▁sep｜>", "<｜end▁of▁sentence｜>"});
  v31.feed(literal + "</think>" + literal);
  v31.feed_marker("<｜tool▁calls▁begin｜>");
  v31.feed_marker("<｜tool▁call▁begin｜>");
  v31.feed("f");
  v31.feed_marker("<｜tool▁sep｜>");
  v31.feed("{\"a\": \"" + literal + "\"}");
  v31.feed_marker("<｜tool▁call▁end｜>");
  v31.feed_marker("<｜tool▁calls▁end｜>");
  v31.feed_marker("<｜end▁of▁sentence｜>");
  v31.feed("not read");
  v31.finish();
  EXPECT_EQ(v31.message().reasoning_content, literal);
  EXPECT_EQ(v31.message().content, literal);
  ASSERT_EQ(v31.message().tool_calls.size(), 1u);
  EXPECT_EQ(v31.message().tool_calls[0].arguments, "{\"a\": \"" + literal + "\"}");
  EXPECT_EQ(v31.unreadable_calls(), 0);

  CompletionParser v32(Encoding::v32, false, {"｜DSML｜", "<｜end▁of▁sentence｜>"});
  const auto tag = [&](const char* before, const char* behind) {
    v32.feed(before);
    v32.feed_marker("｜DSML｜");
    v32.feed(behind);
  };
  v32.feed(literal);
  tag("\n\n<", "function_calls>\n");
  tag("<", "invoke name=\"f\">\n");
  tag("<", "parameter name=\"a\" string=\"true\">");
  v32.feed(literal);
  tag("</", "parameter>\n");
  tag("</", "invoke>\n");
  tag("</", "function_calls>");
  v32.finish();
  EXPECT_EQ(v32.message().content, literal);
  ASSERT_EQ(v32.message().tool_calls.size(), 1u);
  EXPECT_EQ(v32.message().tool_calls[0].arguments, "{\"a\": \"" + literal + "\"}");
}

// A marker where it means nothing is left out.
TEST(CompletionParser, StrayMarkersAreLeftOut) {
  EXPECT_EQ(read_all_ways(Encoding::v31, false, "a<｜tool▁sep｜>b<｜tool▁call▁end｜>").content,
            "ab");
  EXPECT_EQ(read_all_ways(Encoding::v31, true, "a<｜tool▁sep｜>b").reasoning_content, "ab");
  EXPECT_EQ(read_all_ways(Encoding::v32, false, "a</｜DSML｜invoke>b<｜DSML｜\nc").content,
            "ab\nc");
  EXPECT_EQ(read_all_ways(Encoding::v32, false, "a <｜DSML｜function_ca").content, "a ");
}

// Arguments never go beyond what anything behind the parser can read: they would be written level
// by level, and their keys looked for one among all.
TEST(CompletionParser, ArgumentsEndAtTheLimits) {
  const auto nested = [](int depth) {
    return std::string(static_cast<size_t>(depth), '[') +
           std::string(static_cast<size_t>(depth), ']');
  };
  const auto call_v31 = [](const std::string& arguments) {
    return "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>" + arguments +
           "<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
  };
  const auto parameter = [](const std::string& name, const std::string& value) {
    return "<｜DSML｜parameter name=\"" + name + "\" string=\"false\">" + value +
           "</｜DSML｜parameter>\n";
  };
  const auto call_v32 = [](const std::string& parameters) {
    return "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n" + parameters +
           "</｜DSML｜invoke>\n</｜DSML｜function_calls>";
  };
  std::string members, parameters;
  for (int64_t i = 0; i <= kMaxJsonMembers; ++i) {
    members += fmt::format("{}\"k{}\": 0", i ? ", " : "", i);
    parameters += parameter(fmt::format("k{}", i), "0");
  }
  const auto calls = [](Encoding e, const std::string& text) {
    int unreadable = 0;
    const Message m = parsed(e, false, {text}, false, &unreadable);
    EXPECT_EQ(m.tool_calls.size(), 1u);
    const std::string arguments = m.tool_calls.at(0).arguments;
    EXPECT_EQ(beyond_json_limits(arguments), "");
    EXPECT_EQ(OrderedJson::accept(arguments), unreadable == 0);
    EXPECT_EQ(m.content.empty(), unreadable == 0);
    EXPECT_EQ(m.content.find("｜"), m.content.npos);
    return unreadable == 0 ? 1u : 0u;
  };
  EXPECT_EQ(calls(Encoding::v31, call_v31("{\"a\": " + nested(kMaxJsonDepth - 1) + "}")), 1u);
  EXPECT_EQ(calls(Encoding::v31, call_v31("{\"a\": " + nested(kMaxJsonDepth) + "}")), 0u);
  EXPECT_EQ(calls(Encoding::v31, call_v31("{\"a\": " + nested(200'000) + "}")), 0u);
  EXPECT_EQ(calls(Encoding::v31, call_v31("{" + members + "}")), 0u);
  EXPECT_EQ(calls(Encoding::v32, call_v32(parameter("a", nested(kMaxJsonDepth - 1)))), 1u);
  EXPECT_EQ(calls(Encoding::v32, call_v32(parameter("a", nested(kMaxJsonDepth)))), 0u);
  EXPECT_EQ(calls(Encoding::v32, call_v32(parameter("a", nested(200'000)))), 0u);
  EXPECT_EQ(calls(Encoding::v32, call_v32(parameters)), 0u);
}

TEST(CompletionParser, RepeatedKeysAndLongNumbers) {
  const std::string text =
      "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n"
      "<｜DSML｜parameter name=\"a\" string=\"false\">1</｜DSML｜parameter>\n"
      "<｜DSML｜parameter name=\"b\" "
      "string=\"false\">123456789012345678901234567890</｜DSML｜parameter>\n"
      "<｜DSML｜parameter name=\"a\" string=\"true\">2</｜DSML｜parameter>\n"
      "</｜DSML｜invoke>\n</｜DSML｜function_calls>";
  const Message m = parsed(Encoding::v32, false, {text});
  ASSERT_EQ(m.tool_calls.size(), 1u);
  EXPECT_EQ(m.tool_calls[0].arguments,
            R"({"a": 1, "b": 123456789012345678901234567890, "a": "2"})");
  EXPECT_EQ(OrderedJson::parse(m.tool_calls[0].arguments)["a"], "2");
}

TEST(CompletionParser, InvalidBytesBecomeReplacementCharacters) {
  EXPECT_EQ(read_all_ways(Encoding::v31, false,
                          "a\xFF"
                          "b\xE4\xB8")
                .content,
            "a\uFFFD"
            "b\uFFFD");
}

// Nothing is held back that cannot become a tag.
TEST(CompletionParser, TextComesOutAsItArrives) {
  CompletionParser parser(Encoding::v32, false);
  const auto heard = [&](const std::string& chunk) {
    std::string text;
    for (const auto& e : parser.feed(chunk)) text += e.text;
    return text;
  };
  EXPECT_EQ(heard("Hello"), "Hello");
  EXPECT_EQ(heard(" a < b"), " a < b");
  EXPECT_EQ(heard("x\n"), "x");
  EXPECT_EQ(heard("<｜DS"), "");
  EXPECT_EQ(heard("X"), "\n<｜DSX");
}

TEST(CompletionParser, LinearOnHostileText) {
  for (const std::string unit :
       {"<｜tool▁calls▁begin｜>", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>", "<", "\n",
        "<｜DSML｜function_calls><｜DSML｜invoke name=\"", "<｜DSML｜function_calls>\n\n ",
        "<｜DSML｜x ", "</", "[1, \"a"}) {
    std::string text;
    while (text.size() < 300'000) text += unit;
    for (const Encoding e : {Encoding::v31, Encoding::v32}) {
      const std::string whole = parsed(e, false, {text}).content;
      if (e == Encoding::v32) {
        EXPECT_EQ(whole.find("DSML"), whole.npos);
      }
      std::vector<std::string> chunks;
      for (size_t i = 0; i < text.size(); i += 30) chunks.push_back(text.substr(i, 30));
      EXPECT_EQ(parsed(e, false, chunks).content, whole);
      // The same inside of a value.
      chunks.insert(chunks.begin(),
                    e == Encoding::v31
                        ? "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": \""
                        : "<｜DSML｜function_calls><｜DSML｜invoke name=\"f\"><｜DSML｜parameter "
                          "name=\"a\" string=\"true\">");
      EXPECT_EQ(parsed(e, false, chunks).tool_calls.size(), 1u);
    }
  }
}

class Generator {
 public:
  explicit Generator(unsigned seed) : rng_(seed) {}
  size_t below(size_t n) { return rng_() % n; }

  std::string text(bool may_be_empty = true) {
    static const std::vector<std::string> parts = {"a",  " ",   "\n",   "<",  "</",    "word",
                                                   "é",  "中",  "🙂", "\"", "\\",    ">",
                                                   "｜", "=\"", "DSML", "{}", "<think"};
    std::string out;
    for (size_t i = below(8) + (may_be_empty ? 0 : 1); i > 0; --i)
      out += parts[below(parts.size())];
    return out;
  }
  OrderedJson value(int depth = 0) {
    switch (below(depth < 2 ? 7 : 5)) {
      case 0:
        return static_cast<int64_t>(rng_()) - 2'000'000'000;
      case 1:
        return below(2) == 0;
      case 2:
        return nullptr;
      case 3:
        return 0.25 * static_cast<double>(below(1000));
      case 4:
        return text();
      case 5: {
        OrderedJson list = OrderedJson::array();
        for (size_t i = below(3); i > 0; --i) list.push_back(value(depth + 1));
        return list;
      }
      default:
        return object(depth + 1);
    }
  }
  OrderedJson object(int depth) {
    OrderedJson object = OrderedJson::object();
    for (size_t i = below(4); i > 0; --i) object["k" + std::to_string(below(9))] = value(depth);
    return object;
  }
  Message message(bool thinking) {
    Message m;
    m.role = Role::assistant;
    m.content = text();
    if (thinking) m.reasoning_content = text(false);
    for (size_t i = below(4); i > 0; --i) {
      const std::string index = std::to_string(m.tool_calls.size());
      m.tool_calls.push_back({"call_" + index, "tool_" + index, python_dumps(object(0))});
    }
    return m;
  }

 private:
  std::mt19937 rng_;
};

// What the template writes for a message, the parser reads back, in chunks of any size.
TEST(CompletionParser, ReadsWhatTheTemplateWrites) {
  Generator gen(4);
  for (int i = 0; i < 3000; ++i) {
    const Encoding encoding = i % 2 ? Encoding::v31 : Encoding::v32;
    const bool thinking = encoding == Encoding::v32 && gen.below(2);
    Conversation conversation(1);
    conversation[0].content = "Q";
    const std::string prompt = to_text(render(conversation, {encoding, thinking}));
    const Message message = gen.message(thinking);
    conversation.push_back(message);
    const std::string all = to_text(render(conversation, {encoding, thinking}));
    ASSERT_TRUE(all.starts_with(prompt));
    const std::string completion = all.substr(prompt.size());
    std::vector<std::string> chunks;
    for (size_t at = 0; at < completion.size();) {
      const size_t size = 1 + gen.below(1 + gen.below(40));
      chunks.push_back(completion.substr(at, size));
      at += size;
    }
    expect_same(parsed(encoding, thinking, chunks), message, completion);
  }
}

// Any soup of tags and text: no crash, nothing lost in chunking.
TEST(CompletionParser, AnySoupReadsTheSameInAnyChunks) {
  const std::vector<std::string> parts = {"<think>",
                                          "</think>",
                                          "<｜tool▁calls▁begin｜>",
                                          "<｜tool▁calls▁end｜>",
                                          "<｜tool▁call▁begin｜>",
                                          "<｜tool▁call▁end｜>",
                                          "<｜tool▁sep｜>",
                                          "<｜DSML｜function_calls>",
                                          "</｜DSML｜function_calls>",
                                          "<｜DSML｜invoke name=\"",
                                          "</｜DSML｜invoke>",
                                          "<｜DSML｜parameter name=\"k\" string=\"false\">",
                                          "</｜DSML｜parameter>",
                                          "f",
                                          "\">\n",
                                          "\n",
                                          "\n\n",
                                          " ",
                                          "{}",
                                          "{\"a\": 1}",
                                          "1",
                                          "é",
                                          "<｜end▁of▁sentence｜>"};
  Generator gen(5);
  for (int i = 0; i < 400; ++i) {
    std::string text;
    for (size_t k = gen.below(14); k > 0; --k) text += parts[gen.below(parts.size())];
    read_all_ways(i % 2 ? Encoding::v31 : Encoding::v32, gen.below(2), text);
  }
}

}  // namespace
}  // namespace fathom
