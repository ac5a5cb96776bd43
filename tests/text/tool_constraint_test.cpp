// Tool calls kept to their schemas, in both encodings: what is drawn reads back as valid calls, and
// calls as the encodings write them can be drawn. Reasoning in front of an answer.
#include <gtest/gtest.h>

#include "constraint_data.h"
#include "schema_validator.h"
#include "text/chat_markers.h"
#include "text/completion_parser.h"
#include "text/prompt.h"

namespace fathom {
namespace {

using namespace test;

const char* const kTools = R"j([
  {"name":"find","parameters":{"type":"object","properties":{
      "query":{"type":"string"},"count":{"type":"integer","minimum":1,"maximum":20},
      "kind":{"enum":["book","film",3]},"note":{"type":["string","null"]},
      "where":{"$ref":"#/$defs/place"},"tags":{"type":"array","items":{"type":"string"}}},
    "required":["query","where"],"additionalProperties":false,
    "$defs":{"place":{"anyOf":[{"type":"string","pattern":"^[a-z]{1,5}$"},
        {"type":"object","properties":{"x":{"type":"number"}},"required":["x"]}]}}}},
  {"name":"now"},
  {"name":"log","description":"writes","parameters":{"type":"object","properties":{
      "line":{"type":"string","maxLength":30},"code":{"type":"string","format":"uuid"}}}},
  {"name":"set-all","parameters":{"type":"object"}}])j";

AnswerForm tool_form() {
  AnswerForm form;
  form.kind = AnswerForm::Kind::tool_calls;
  for (const OrderedJson& tool : OrderedJson::parse(kTools)) form.tools.push_back(tool);
  return form;
}

OrderedJson parameters_of(const AnswerForm& form, const std::string& name) {
  for (const OrderedJson& tool : form.tools)
    if (tool["name"] == name)
      return tool.value("parameters", OrderedJson::parse(R"({"type":"object"})"));
  ADD_FAILURE() << "called " << name;
  return {};
}

void check_call(const AnswerForm& form, const ToolCall& call, const std::string& text) {
  const OrderedJson parameters = parameters_of(form, call.name);
  const OrderedJson arguments = OrderedJson::parse(call.arguments, nullptr, false);
  ASSERT_TRUE(arguments.is_object()) << call.arguments << "\n" << text;
  ASSERT_EQ(Validator(parameters).check(arguments), "") << call.arguments << "\n" << text;
  for (const auto& [key, value] : arguments.items()) {
    ASSERT_TRUE(!parameters.contains("properties") || parameters["properties"].contains(key))
        << key << "\n"
        << text;
  }
}

Message parsed(Encoding encoding, bool thinking, const std::string& text) {
  CompletionParser parser(encoding, thinking);
  parser.feed(text);
  parser.finish();
  return parser.message();
}

void walk(const Tokenizer& tokenizer, Encoding encoding, int seeds, int length) {
  ConstraintFactory factory(tokenizer, encoding, {kStop});
  AnswerForm form = tool_form();
  size_t calls = 0, finished = 0;
  for (const bool parallel : {true, false}) {
    for (const bool thinking : {false, true}) {
      form.parallel_calls = parallel;
      form.thinking = thinking;
      const auto ready = compiled(factory, form);
      for (int seed = 0; seed < seeds; ++seed) {
        Walker walker(tokenizer, seed);
        const auto matcher = factory.matcher(ready);
        if (thinking) {
          for (const int32_t t : tokenizer.encode_plain("Hm </thi <"))
            ASSERT_TRUE(matcher->accept(t));
          ASSERT_TRUE(matcher->accept(*tokenizer.added_id_of(marker::kEndThink)));
        }
        const auto text = walker.finish(*matcher, length);
        if (!text) continue;
        ++finished;
        const Message m =
            parsed(encoding, thinking, (thinking ? "Hm </thi <</think>" : "") + *text);
        EXPECT_EQ(m.content, "") << *text;
        EXPECT_EQ(m.reasoning_content, thinking ? "Hm </thi <" : "");
        ASSERT_GE(m.tool_calls.size(), 1u) << *text;
        if (!parallel) {
          ASSERT_EQ(m.tool_calls.size(), 1u) << *text;
        }
        for (const ToolCall& call : m.tool_calls) check_call(form, call, *text);
        calls += m.tool_calls.size();
      }
    }
  }
  EXPECT_GE(finished, static_cast<size_t>(seeds) * 3);
  EXPECT_GE(calls, finished);
}

TEST(ToolConstraint, DrawnCallsAreValidV31) { walk(small_tokenizer(), Encoding::v31, 40, 40); }
TEST(ToolConstraint, DrawnCallsAreValidV32) { walk(small_tokenizer(), Encoding::v32, 20, 60); }
TEST(ToolConstraint, DrawnCallsAreValidWithTheRealVocabulary) {
  walk(deepseek_tokenizer(), Encoding::v31, 3, 30);
  walk(deepseek_tokenizer(), Encoding::v32, 3, 30);  // in which the DSML marker is ordinary text
}

// As an encoding renders calls, so they can be drawn.
TEST(ToolConstraint, RenderedCallsAreAccepted) {
  Message m;
  m.role = Role::assistant;
  m.tool_calls = {
      {"", "find",
       R"({"query": "two\nlines \"ü\" <b>", "count": 12, "kind": "film", "where": {"x": -1.5}, "tags": ["a"]})"},
      {"", "now", "{}"},
      {"", "find", R"({"query": "", "kind": 3, "note": null, "where": "home"})"},
      {"", "log", R"({"line": "x"})"},
      {"", "set-all", R"({"a": 1, "b": "text", "c": [null]})"}};
  Conversation conversation(1);
  conversation[0].content = "q";
  conversation.push_back(m);
  for (const Tokenizer* tokenizer : {&small_tokenizer(), &deepseek_tokenizer()}) {
    for (const Encoding encoding : {Encoding::v31, Encoding::v32}) {
      ConstraintFactory factory(*tokenizer, encoding, {kStop});
      const auto form = compiled(factory, tool_form());
      std::vector<Segment> segments = render(conversation, {encoding, false, false});
      // The answer's own part: from its first marker on (v3.2: and the line breaks before it).
      const bool v31 = encoding == Encoding::v31;
      while (segments.front().text != (v31 ? marker::kCallsBegin : marker::kEndThink))
        segments.erase(segments.begin());
      if (!v31) segments.erase(segments.begin());
      ASSERT_EQ(segments.back().text, marker::kEos);
      segments.pop_back();
      const auto matcher = factory.matcher(form);
      for (const int32_t token : encode_segments(*tokenizer, segments)) {
        ASSERT_TRUE(matcher->accept(token)) << tokenizer->token_bytes(token);
      }
      EXPECT_TRUE(matcher->complete());
    }
  }
}

TEST(ToolConstraint, MarkersAreTokensAndNeverText) {
  const Tokenizer& tokenizer = small_tokenizer();
  ConstraintFactory factory(tokenizer, Encoding::v31, {kStop});
  const auto form = compiled(factory, tool_form());
  auto matcher = factory.matcher(form);
  std::vector<uint64_t> mask;
  matcher->allowed(mask);
  EXPECT_EQ(tokens_of(mask), std::vector<int32_t>{*tokenizer.added_id_of(marker::kCallsBegin)});
  // Spelled out in ordinary tokens it is no marker.
  EXPECT_FALSE(accepts(*matcher, tokenizer.encode_plain(marker::kCallsBegin)));
  matcher = factory.matcher(form);
  for (const int32_t t : tokenizer.encode(
           "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>find<｜tool▁sep｜>{\"query\":\"a <")) {
    ASSERT_TRUE(matcher->accept(t));
  }
  matcher->allowed(mask);
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id)
    EXPECT_FALSE(tokenizer.is_added(id) && bit(mask, id)) << id;
  // Nor can one be spelled out inside of a string: it would end the call for who reads it.
  bool spelled = true;
  for (const int32_t t : tokenizer.encode_plain("｜tool▁call▁end｜>"))
    spelled = spelled && matcher->accept(t);
  EXPECT_FALSE(spelled);
}

TEST(ToolConstraint, ReasoningEndsByTokenOrText) {
  const Tokenizer& tokenizer = small_tokenizer();
  for (const Encoding encoding : {Encoding::v31, Encoding::v32}) {
    ConstraintFactory factory(tokenizer, encoding, {kStop});
    AnswerForm form = schema_form(R"({"type":"boolean"})");
    form.thinking = true;
    const auto ready = compiled(factory, form);
    for (const std::string reasoning : {"", "Is it? <x> </thin </</thi\n 🙂 <", "</", "<<"}) {
      for (const bool as_text : {false, true}) {
        const auto matcher = factory.matcher(ready);
        const std::string text = reasoning + "</think>";
        for (const int32_t t : as_text ? tokenizer.encode_plain(text) : tokenizer.encode(text))
          ASSERT_TRUE(matcher->accept(t)) << text;
        EXPECT_FALSE(matcher->complete());
        EXPECT_TRUE(accepts(*matcher, tokenizer.encode_plain("true")));
        const Message m = parsed(encoding, true, text + "true");
        EXPECT_EQ(m.reasoning_content, reasoning);
        EXPECT_EQ(m.content, "true");
      }
    }
    form.kind = AnswerForm::Kind::free;
    EXPECT_TRUE(restricts_nothing(*compiled(factory, form)));
  }
}

}  // namespace
}  // namespace fathom
