// Schemas as generators write them (tests/data/schemas): each compiles, what is drawn from its
// grammar follows it, and what follows it can be drawn.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "constraint_data.h"
#include "schema_validator.h"
#include "text/completion_parser.h"

namespace fathom {
namespace {

using namespace test;

// name, schema, valid; perhaps invalid, `strict` (how strict mode refuses it) and `loose` (what of
// it is left out, so that what is drawn need not follow it).
std::vector<OrderedJson> corpus() {
  std::vector<OrderedJson> all;
  for (const char* file : {"generated", "pydantic", "written"}) {
    const std::string path = std::string("tests/data/schemas/") + file + ".json";
    for (OrderedJson& entry : OrderedJson::parse(read_source(path)))
      all.push_back(std::move(entry));
  }
  return all;
}

AnswerForm form_of(const OrderedJson& schema, bool strict) {
  AnswerForm form;
  form.kind = AnswerForm::Kind::json_schema;
  form.schema = schema;
  form.strict = form.strict_tools = strict;
  return form;
}

bool takes(ConstraintFactory& factory, const std::shared_ptr<const CompiledForm>& form,
           const std::string& text) {
  const auto matcher = factory.matcher(form);
  return accepts(*matcher, small_tokenizer().encode_plain(text));
}

TEST(SchemaCorpus, WhatFollowsASchemaIsAccepted) {
  ConstraintFactory factory(small_tokenizer(), Encoding::v31, {kStop});
  for (const OrderedJson& entry : corpus()) {
    const std::string name = entry["name"];
    SCOPED_TRACE(name + "\n" + entry["schema"].dump());
    const auto ready = factory.compile(form_of(entry["schema"], false));
    if (entry["valid"].empty()) continue;  // nothing follows it
    ASSERT_TRUE(ready.ok()) << ready.failure().message;
    const Validator validator(entry["schema"]);
    for (const OrderedJson& value : entry["valid"]) {
      EXPECT_TRUE(takes(factory, ready.value(), python_dumps(value))) << value;
      if (!entry.contains("loose")) {
        EXPECT_EQ(validator.check(value), "") << value;
      }
    }
    for (const OrderedJson& value : entry.value("invalid", OrderedJson::array()))
      EXPECT_FALSE(takes(factory, ready.value(), python_dumps(value))) << value;
  }
}

TEST(SchemaCorpus, WhatIsDrawnFollowsTheSchema) {
  ConstraintFactory factory(small_tokenizer(), Encoding::v31, {kStop});
  size_t finished = 0, drawn = 0;
  for (const OrderedJson& entry : corpus()) {
    if (entry["valid"].empty() || entry.contains("loose")) continue;
    SCOPED_TRACE(entry["name"].get<std::string>() + "\n" + entry["schema"].dump());
    const auto ready = factory.compile(form_of(entry["schema"], false));
    ASSERT_TRUE(ready.ok()) << ready.failure().message;
    const Validator validator(entry["schema"]);
    for (int seed = 0; seed < 4; ++seed, ++drawn) {
      Walker walker(small_tokenizer(), seed);
      const auto matcher = factory.matcher(ready.value());
      const auto text = walker.finish(*matcher, 30);
      if (!text) continue;
      ++finished;
      const OrderedJson value = OrderedJson::parse(*text, nullptr, false);
      ASSERT_FALSE(value.is_discarded()) << *text;
      EXPECT_EQ(validator.check(value), "") << *text;
    }
  }
  EXPECT_GT(finished, drawn * 3 / 4);
}

TEST(SchemaCorpus, StrictModeRefusesWhatItCannotEnforce) {
  ConstraintFactory factory(small_tokenizer(), Encoding::v31, {kStop});
  for (const OrderedJson& entry : corpus()) {
    const std::string refusal = entry.value("strict", "");
    const auto ready = factory.compile(form_of(entry["schema"], true));
    if (refusal.empty()) continue;
    ASSERT_FALSE(ready.ok()) << entry;
    EXPECT_THAT(ready.failure().message, ::testing::HasSubstr(refusal)) << entry;
  }
}

// As the parameters of a function, in both encodings, and what is drawn reads back as one.
TEST(SchemaCorpus, ParametersOfFunctions) {
  for (const Encoding encoding : {Encoding::v31, Encoding::v32}) {
    ConstraintFactory factory(small_tokenizer(), encoding, {kStop});
    size_t calls = 0;
    for (const OrderedJson& entry : corpus()) {
      const OrderedJson& schema = entry["schema"];
      const OrderedJson& valid = entry["valid"];
      if (valid.empty() || !valid[0].is_object() || entry.contains("loose")) continue;
      SCOPED_TRACE(entry["name"].get<std::string>() + "\n" + schema.dump());
      AnswerForm form = form_of(schema, false);
      form.kind = AnswerForm::Kind::tool_calls;
      form.parallel_calls = false;
      form.tools = {{{"name", "f"}, {"parameters", schema}}};
      const auto ready = factory.compile(form);
      ASSERT_TRUE(ready.ok()) << ready.failure().message;
      Walker walker(small_tokenizer(), 1);
      const auto matcher = factory.matcher(ready.value());
      const auto text = walker.finish(*matcher, 40);
      if (!text) continue;
      CompletionParser parser(encoding, false);
      parser.feed(*text);
      parser.finish();
      ASSERT_EQ(parser.message().tool_calls.size(), 1u) << *text;
      EXPECT_EQ(parser.unreadable_calls(), 0);
      const OrderedJson arguments = OrderedJson::parse(parser.message().tool_calls[0].arguments);
      EXPECT_EQ(Validator(schema).check(arguments), "") << *text;
      ++calls;
    }
    EXPECT_GT(calls, 60u);
  }
}

// Tools that may be called beside a form: either the calls or the text, behind free reasoning.
TEST(SchemaCorpus, CallsOrTextThatFollowsTheSchema) {
  const OrderedJson schema = OrderedJson::parse(
      R"({"type":"object","properties":{"known":{"type":"boolean"}},"required":["known"]})");
  for (const Encoding encoding : {Encoding::v31, Encoding::v32}) {
    ConstraintFactory factory(small_tokenizer(), encoding, {kStop});
    for (const bool thinking : {false, true}) {
      AnswerForm form = form_of(schema, true);
      form.tools = {OrderedJson::parse(
          R"({"name":"look","parameters":{"type":"object","properties":{"q":{"type":"string"}},"required":["q"]}})")};
      form.thinking = thinking;
      for (const auto kind : {AnswerForm::Kind::json_schema, AnswerForm::Kind::json_object}) {
        form.kind = kind;
        const auto ready = compiled(factory, form);
        size_t texts = 0, calls = 0;
        for (int seed = 0; seed < 40; ++seed) {
          const auto matcher = factory.matcher(ready);
          const std::string reasoning = thinking ? "Hm, {</think>" : "";
          for (const int32_t t : small_tokenizer().encode(reasoning, false)) {
            ASSERT_TRUE(matcher->accept(t));
          }
          const auto text = Walker(small_tokenizer(), seed).finish(*matcher, 30);
          if (!text) continue;
          CompletionParser parser(encoding, false);
          parser.feed(*text);
          parser.finish();
          const Message& m = parser.message();
          ASSERT_NE(m.content.empty(), m.tool_calls.empty()) << *text;
          (m.content.empty() ? calls : texts) += 1;
          if (!m.content.empty() && kind == AnswerForm::Kind::json_schema) {
            EXPECT_EQ(Validator(schema).check(OrderedJson::parse(m.content)), "");
          }
        }
        EXPECT_GT(texts, 0u);
        EXPECT_GT(calls, 0u);
      }
    }
  }
}

// Schemas whose parts stand for exponentially many are refused at once.
TEST(SchemaCorpus, SchemasThatGrowWithoutEndAreRefused) {
  ConstraintFactory factory(small_tokenizer(), Encoding::v31, {kStop});
  OrderedJson doubling = {{"$ref", "#/$defs/d0"}, {"$defs", OrderedJson::object()}};
  for (int i = 0; i < 40; ++i) {
    const OrderedJson next = {{"$ref", "#/$defs/d" + std::to_string(i + 1)}};
    doubling["$defs"]["d" + std::to_string(i)]["allOf"] = {next, next};
  }
  doubling["$defs"]["d40"] = {{"type", "null"}};
  EXPECT_FALSE(factory.compile(form_of(doubling, false)).ok());

  OrderedJson choices = {{"allOf", OrderedJson::array()}};
  for (int i = 0; i < 30; ++i) {
    const auto member = [&](const char* type) {
      return OrderedJson{{"properties", {{"p" + std::to_string(i), {{"type", type}}}}}};
    };
    choices["allOf"].push_back({{"anyOf", {member("null"), member("string")}}});
  }
  EXPECT_FALSE(factory.compile(form_of(choices, false)).ok());
}

}  // namespace
}  // namespace fathom
