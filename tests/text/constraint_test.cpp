// Answers kept to a form: what is drawn from the masks follows the form, and what follows the form
// can be drawn.
#include "text/grammar/constraint.h"

#include <gtest/gtest.h>

#include <thread>

#include "constraint_data.h"
#include "schema_validator.h"
#include "text/byte_alphabet.h"

namespace fathom {
namespace {

using namespace test;

struct Example {
  const char* schema;
  std::vector<const char*> valid, invalid;
};

const std::vector<Example>& examples() {
  static const std::vector<Example> list = {
      {R"({"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer"}},
          "required":["name","age"],"additionalProperties":false})",
       {R"({"name": "Ann", "age": 7})", R"({"name":"","age":-12})",
        "{\n  \"name\": \"a\",\n  \"age\": 1\n}",
        R"({"name": "<a>\"\\\u00e9\ud83d\ude00 é 🙂", "age": 0})"},
       {R"({"age": 7, "name": "Ann"})", R"({"name": "Ann"})", R"({"name": "Ann", "age": 7.5})",
        R"({"name": "Ann", "age": 07})", R"({"name": "\ud83d", "age": 7})",
        R"({"name": "\udc00", "age": 7})", "{\"name\": \"a\nb\", \"age\": 7}",
        R"({"name": "a", "age": 7, })", R"( {"name": "a", "age": 7})",
        R"({"name": "a", "age": 7}x)", R"({"name": "\x", "age": 7})",
        R"({"name":  "a", "age": 7})"}},
      {R"({"type":"object","properties":{"a":{"type":"null"},"b":{"type":"boolean"},"c":{"type":["string","null"]}},
          "required":["b"]})",
       {R"({"b":true})", R"({"a":null,"b":false})", R"({"b":true,"c":null})",
        R"({"a":null,"b":false,"c":"x"})"},
       {"{}", R"({"a":null})", R"({"b":true,"a":null})", R"({"b":true,})", R"({,"b":true})",
        R"({"a":null,"c":"x"})"}},
      {R"({"type":"object","properties":{"x":{"type":"number"},"y":{"type":"number"}}})",
       {"{}", "{ }", R"({"x":1})", R"({"y":-1.5e3})", R"({"x":0.25,"y":1E-2})"},
       {R"({"y":1,"x":1})", R"({"x":.5})", R"({"x":1.})", R"({"x":01})", R"({"x":1e})",
        R"({"x":+1})"}},
      {R"({"enum":["red","red-ish","re","green",1,10,null,true,[1,{"k":"v"}],{}]})",
       {"\"red\"", "\"re\"", "\"red-ish\"", "1", "10", "null", "true", R"([1,{"k":"v"}])",
        R"([1, {"k": "v"}])", "{}"},
       {"\"r\"", "\"reds\"", "2", "100", "false", "[1]", "\"\""}},
      {R"({"const":"a \"quoted\" \\ text\nwith é"})",
       {R"("a \"quoted\" \\ text\nwith é")"},
       {"\"a\""}},
      {R"({"type":"array","items":{"type":"integer","minimum":-5,"maximum":120},"minItems":1,"maxItems":3})",
       {"[0]", "[-5, 120]", "[7,8,9]"},
       {"[]", "[-6]", "[121]", "[1,2,3,4]", "[-0]", "[1,]", "[1.0]"}},
      {R"({"type":"array","prefixItems":[{"type":"string"},{"type":"boolean"}],"items":{"type":"null"}})",
       {R"(["a",true])", R"(["a",true,null,null])"},
       {"[]", R"(["a"])", R"(["a",true,1])"}},
      {R"({"type":"array","prefixItems":[{"type":"string"},{"type":"boolean"}],"items":false})",
       {R"(["a", false])"},
       {R"(["a",true,null])"}},
      {R"({"type":"array","items":{"type":"array","items":{"type":"boolean"},"maxItems":0}})",
       {"[]", "[[]]", "[[], []]"},
       {"[[true]]"}},
      {R"({"type":"string","minLength":2,"maxLength":4})",
       {"\"ab\"", "\"éé🙂é\"", R"("\n\u0041")", R"("\ud83d\ude00!")"},
       {"\"a\"", "\"abcde\"", R"("\n")", "\"\""}},
      {R"({"type":"string","pattern":"^[a-c]{2,3}(-\\d+)?$"})",
       {"\"ab\"", "\"abc-09\""},
       {"\"a\"", "\"abcc\"", "\"ab-\"", "\"xab\""}},
      {R"({"type":"string","pattern":"b+"})",
       {"\"abba\"", "\"b\"", "\"xx\\nbéé\""},
       {"\"\"", "\"ac\""}},
      {R"({"type":"string","pattern":"^a|z$"})",
       {"\"ab\"", "\"yz\"", "\"a\""},
       {"\"b\"", "\"zb\""}},
      {R"({"type":"string","format":"date"})",
       {"\"2024-02-29\"", "\"2000-02-29\"", "\"1999-12-31\""},
       {"\"2023-02-29\"", "\"1900-02-29\"", "\"2024-13-01\"", "\"2024-04-31\"", "\"24-01-01\""}},
      {R"({"type":"string","format":"date-time"})",
       {"\"2024-02-29T23:59:59Z\"", "\"2024-01-01T00:00:00.123+02:00\""},
       {"\"2024-01-01\"", "\"2024-01-01T24:00:00Z\"", "\"2024-01-01T00:00:00\""}},
      {R"({"type":"string","format":"uuid"})",
       {"\"123e4567-e89b-12d3-a456-426614174000\""},
       {"\"123e4567\""}},
      {R"({"type":"string","format":"email"})",
       {"\"a.b+c@example.com\""},
       {"\"a@b\"", "\"@b.com\"", "\"a..b@c.de\""}},
      {R"({"type":"string","format":"ipv4"})",
       {"\"0.10.199.255\""},
       {"\"256.1.1.1\"", "\"01.1.1.1\"", "\"1.1.1\""}},
      {R"({"type":"string","format":"ipv6"})",
       {"\"::\"", "\"::1\"", "\"1:2:3:4:5:6:7:8\"", "\"fe80::1:2\""},
       {"\"1::2::3\"", "\"1:2\"", "\"12345::\""}},
      {R"({"type":"string","format":"duration"})",
       {"\"P1Y2M3DT4H5M6S\"", "\"PT0S\"", "\"P3W\"", "\"P1DT12H\""},
       {"\"P\"", "\"PT\"", "\"P1H\""}},
      {R"({"type":"string","format":"time"})",
       {"\"23:00:59Z\"", "\"00:00:00.5-11:30\""},
       {"\"24:00:00Z\"", "\"1:00:00Z\""}},
      {R"({"type":"string","format":"hostname"})",
       {"\"a\"", "\"my-host.example.com\""},
       {"\"-a\"", "\"a..b\"", "\"\""}},
      {R"({"type":"string","format":"uri"})",
       {"\"https://example.com/a/b?q=1&r=%20#top\"", "\"http://h:8000\""},
       {"\"example.com\"", "\"http://a b\""}},
      {R"({"type":"number","minimum":0.25,"exclusiveMaximum":10})",
       {"0.25", "0.3", "9.999", "1", "9", "2.50"},
       {"0.2", "0.249", "10", "10.0", "-1", "0", "1e0"}},
      {R"({"type":"number","exclusiveMinimum":-1.5,"maximum":0})",
       {"0", "-1.4", "-1.49", "-0.5", "-1", "0.0"},
       {"-1.5", "-1.50", "-2", "0.1", "-0", "-0.0"}},
      {R"({"type":"number","multipleOf":0.01})", {"1.25", "-3.5", "7"}, {"1.255"}},
      {R"({"type":"integer","multipleOf":7,"minimum":-20,"maximum":100})",
       {"0", "7", "98", "-14"},
       {"1", "105", "-21", "-7.0"}},
      {R"({"type":"integer","exclusiveMinimum":9,"exclusiveMaximum":12})",
       {"10", "11"},
       {"9", "12", "1"}},
      {R"({"anyOf":[{"type":"object","properties":{"kind":{"const":"a"},"x":{"type":"integer"}},"required":["kind","x"]},
                    {"type":"object","properties":{"kind":{"const":"b"},"y":{"type":"string"}},"required":["kind","y"]},
                    {"type":"null"}]})",
       {R"({"kind":"a","x":1})", R"({"kind":"b","y":"z"})", "null"},
       {R"({"kind":"a","y":"z"})", R"({"kind":"c"})"}},
      {R"({"$defs":{"node":{"type":"object","properties":{"value":{"type":"integer"},"next":{"anyOf":[{"$ref":"#/$defs/node"},{"type":"null"}]}},
          "required":["value","next"],"additionalProperties":false}},"$ref":"#/$defs/node"})",
       {R"({"value":1,"next":null})",
        R"({"value":1,"next":{"value":2,"next":{"value":3,"next":null}}})"},
       {R"({"value":1})", R"({"value":1,"next":{}})"}},
      {R"({"type":"object","properties":{"name":{"type":"string"},"children":{"type":"array","items":{"$ref":"#"}}},"required":["name","children"]})",
       {R"({"name":"a","children":[]})",
        R"({"name":"a","children":[{"name":"b","children":[]},{"name":"c","children":[]}]})"},
       {R"({"name":"a"})", R"({"name":"a","children":[1]})"}},
      {R"({"type":"object","additionalProperties":{"type":"integer"}})",
       {"{}", R"({"a":1,"b":2})"},
       {R"({"a":"x"})", R"({1:1})"}},
      {R"({"type":"object","properties":{"we\"ird\\k\néy":{"type":"integer"},"":{"type":"integer"}},"required":["we\"ird\\k\néy",""]})",
       {R"({"we\"ird\\k\néy":1,"":2})"},
       {R"({"weird":1})"}},
      {R"({})",
       {"null", "[1, \"a\", {\"b\": []}]", "{}", "-0.5", "\"x\""},
       {"", "nul", "[1", "{\"a\"}"}},
      {R"({"type":"array"})", {"[]", "[null,[],{}]"}, {"{}", "1"}},
      {R"({"properties":{"a":true},"required":["a"]})", {R"({"a":[{}]})"}, {"{}"}},
      {R"({"type":["integer","boolean"],"enum":["a",1,true,2.5]})",
       {"1", "true"},
       {"\"a\"", "2.5"}},
  };
  return list;
}

ConstraintFactory& small_factory(Encoding encoding) {
  static ConstraintFactory v31(small_tokenizer(), Encoding::v31, {kStop});
  static ConstraintFactory v32(small_tokenizer(), Encoding::v32, {kStop});
  return encoding == Encoding::v31 ? v31 : v32;
}

ConstraintFactory& deepseek_factory() {
  static ConstraintFactory factory(deepseek_tokenizer(), Encoding::v31, {kStop});
  return factory;
}

void walk_examples(ConstraintFactory& factory, const Tokenizer& tokenizer, int seeds, int length) {
  size_t finished = 0, walks = 0;
  for (const Example& e : examples()) {
    const AnswerForm form = schema_form(e.schema);
    const auto ready = compiled(factory, form);
    for (int seed = 0; seed < seeds; ++seed, ++walks) {
      Walker walker(tokenizer, seed);
      const auto matcher = factory.matcher(ready);
      const auto text = walker.finish(*matcher, length);
      if (!text) continue;
      ++finished;
      const OrderedJson value = OrderedJson::parse(*text, nullptr, false);
      ASSERT_FALSE(value.is_discarded()) << e.schema << "\n" << *text;
      ASSERT_EQ(Validator(form.schema).check(value), "") << e.schema << "\n" << *text;
    }
  }
  EXPECT_GT(finished * 10, walks * 9) << "most walks should end";
}

TEST(Constraint, WhatIsDrawnFollowsTheSchema) {
  walk_examples(small_factory(Encoding::v31), small_tokenizer(), 20, 30);
}

TEST(Constraint, WhatIsDrawnFollowsTheSchemaWithTheRealVocabulary) {
  walk_examples(deepseek_factory(), deepseek_tokenizer(), 2, 20);
}

TEST(Constraint, ValidDocumentsAreAcceptedHoweverTheyAreCut) {
  for (const bool real : {false, true}) {
    const Tokenizer& tokenizer = real ? deepseek_tokenizer() : small_tokenizer();
    ConstraintFactory& factory = real ? deepseek_factory() : small_factory(Encoding::v31);
    const RandomCut cut(tokenizer);
    std::mt19937_64 random(7);
    for (const Example& e : examples()) {
      const auto form = compiled(factory, schema_form(e.schema));
      for (const char* text : e.valid) {
        ASSERT_TRUE(accepts(*factory.matcher(form), tokenizer.encode_plain(text)))
            << e.schema << "\n"
            << text;
        for (int i = 0; i < 5; ++i) {
          ASSERT_TRUE(accepts(*factory.matcher(form), cut.cut(text, random))) << e.schema << "\n"
                                                                              << text;
        }
      }
      for (const char* text : e.invalid) {
        EXPECT_FALSE(accepts(*factory.matcher(form), tokenizer.encode_plain(text)))
            << e.schema << "\n"
            << text;
        EXPECT_FALSE(accepts(*factory.matcher(form), cut.cut(text, random))) << e.schema << "\n"
                                                                             << text;
      }
    }
  }
}

// The mask and accept() are two computations of the same set.
TEST(Constraint, MasksSayWhatIsAccepted) {
  const Tokenizer& tokenizer = small_tokenizer();
  ConstraintFactory& factory = small_factory(Encoding::v31);
  for (const Example& e : examples()) {
    const auto form = compiled(factory, schema_form(e.schema));
    Walker walker(tokenizer, 3);
    const auto matcher = factory.matcher(form);
    std::vector<int32_t> so_far;
    std::vector<uint64_t> mask;
    for (int step = 0; step < 9; ++step) {
      matcher->allowed(mask);
      for (int32_t token = 0; token < tokenizer.vocab_size(); ++token) {
        if (bit(mask, token)) continue;
        ASSERT_FALSE(matcher->accept(token)) << e.schema << " " << token;
      }
      const std::vector<int32_t> tokens = tokens_of(mask);
      for (int i = 0; i < 5; ++i) {  // and whatever is allowed can be brought to an end
        const int32_t token = tokens[walker.random()() % tokens.size()];
        const auto other = factory.matcher(form);
        for (const int32_t t : so_far) ASSERT_TRUE(other->accept(t));
        ASSERT_TRUE(other->accept(token));
        if (token != kStop) walker.finish(*other, 0);
      }
      const int32_t next = walker.draw(mask, false);
      if (next == kStop) break;
      ASSERT_TRUE(matcher->accept(next));
      so_far.push_back(next);
    }
  }
}

TEST(Constraint, JsonObject) {
  AnswerForm form;
  form.kind = AnswerForm::Kind::json_object;
  for (const bool real : {false, true}) {
    const Tokenizer& tokenizer = real ? deepseek_tokenizer() : small_tokenizer();
    ConstraintFactory& factory = real ? deepseek_factory() : small_factory(Encoding::v32);
    const auto ready = compiled(factory, form);
    for (int seed = 0; seed < 20; ++seed) {
      const auto text = Walker(tokenizer, seed).finish(*factory.matcher(ready), 60);
      if (text) {
        EXPECT_TRUE(OrderedJson::parse(*text, nullptr, false).is_object()) << *text;
      }
    }
    EXPECT_TRUE(accepts(*factory.matcher(ready), tokenizer.encode_plain("{\"a\": [1, {}]}")));
    EXPECT_FALSE(accepts(*factory.matcher(ready), tokenizer.encode_plain("[1]")));
  }
}

// However deep an answer goes, it can come back.
TEST(Constraint, NestingIsBoundedAndCanAlwaysBeClosed) {
  const Tokenizer& tokenizer = small_tokenizer();
  ConstraintFactory& factory = small_factory(Encoding::v31);
  AnswerForm form;
  form.kind = AnswerForm::Kind::json_object;
  const auto matcher = factory.matcher(compiled(factory, form));
  const auto accept_text = [&](std::string_view text) {
    for (const char c : text) {
      const auto id = RandomCut(tokenizer).cut({&c, 1}, *std::make_unique<std::mt19937_64>());
      if (!matcher->accept(id[0])) return false;
    }
    return true;
  };
  ASSERT_TRUE(accept_text("{\"a\":"));
  const int32_t open = *tokenizer.id_of("["), close = *tokenizer.id_of("]");
  int depth = 0;
  while (depth < 1000 && matcher->accept(open)) ++depth;
  EXPECT_GT(depth, 100);
  EXPECT_LT(depth, 200);
  std::vector<uint64_t> mask;
  matcher->allowed(mask);
  EXPECT_FALSE(bit(mask, open));
  for (int i = 0; i < depth; ++i) ASSERT_TRUE(matcher->accept(close));
  EXPECT_TRUE(accept_text("}"));
  EXPECT_TRUE(matcher->complete());
}

TEST(Constraint, LongStringsKeepTheirCounts) {
  const Tokenizer& tokenizer = small_tokenizer();
  ConstraintFactory& factory = small_factory(Encoding::v31);
  const auto form =
      compiled(factory, schema_form(R"({"type":"string","minLength":20000,"maxLength":20002})"));
  const auto text = [](size_t n) { return "\"" + std::string(n, 'a') + "\""; };
  EXPECT_FALSE(accepts(*factory.matcher(form), tokenizer.encode_plain(text(19999))));
  EXPECT_TRUE(accepts(*factory.matcher(form), tokenizer.encode_plain(text(20000))));
  EXPECT_TRUE(accepts(*factory.matcher(form), tokenizer.encode_plain(text(20002))));
  EXPECT_FALSE(accepts(*factory.matcher(form), tokenizer.encode_plain(text(20003))));
  const auto drawn =
      Walker(tokenizer, 1)
          .finish(
              *factory.matcher(compiled(
                  factory, schema_form(R"({"type":"string","minLength":300,"maxLength":300})"))),
              500);
  ASSERT_TRUE(drawn);
  EXPECT_EQ(Validator(OrderedJson::parse(R"({"minLength":300,"maxLength":300})"))
                .check(OrderedJson::parse(*drawn)),
            "");
}

TEST(Constraint, EndsAndStaysEnded) {
  ConstraintFactory& factory = small_factory(Encoding::v31);
  const auto matcher = factory.matcher(compiled(factory, schema_form(R"({"type":"null"})")));
  std::vector<uint64_t> mask;
  EXPECT_FALSE(matcher->accept(kStop));
  for (const int32_t t : small_tokenizer().encode_plain("null")) ASSERT_TRUE(matcher->accept(t));
  matcher->allowed(mask);
  EXPECT_EQ(tokens_of(mask), std::vector<int32_t>{kStop});
  ASSERT_TRUE(matcher->accept(kStop));
  matcher->allowed(mask);
  EXPECT_EQ(tokens_of(mask), std::vector<int32_t>{kStop});
  EXPECT_TRUE(matcher->accept(kStop));
  EXPECT_FALSE(matcher->accept(*small_tokenizer().id_of("1")));
  EXPECT_FALSE(matcher->accept(-1));
  EXPECT_FALSE(matcher->accept(1 << 30));
}

TEST(Constraint, FreeFormRestrictsNothing) {
  ConstraintFactory& factory = small_factory(Encoding::v31);
  const auto form = compiled(factory, AnswerForm{});
  EXPECT_TRUE(restricts_nothing(*form));
  const auto matcher = factory.matcher(form);
  std::vector<uint64_t> mask = {1};
  matcher->allowed(mask);
  EXPECT_TRUE(mask.empty());
  EXPECT_TRUE(matcher->accept(12));
  EXPECT_TRUE(matcher->complete());
}

// Every byte is a token, but here one of them is an added token, which is never part of a text: the
// matcher says that it cannot go on.
TEST(Constraint, SaysThatNoTokenGoesOn) {
  nlohmann::json file = nlohmann::json::parse(R"({"normalizer": null, "post_processor": null,
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "x"}, "behavior": "Isolated", "invert": false},
      {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
    "decoder": {"type": "ByteLevel"},
    "added_tokens": [{"id": 108, "content": "l", "normalized": false, "special": false}],
    "model": {"type": "BPE", "vocab": {}, "merges": []}})");
  for (int byte = 0; byte < 256; ++byte) file["model"]["vocab"][byte_spellings()[byte]] = byte;
  const Tokenizer poor = Tokenizer::from_json(file.dump(), "poor");
  ConstraintFactory factory(poor, Encoding::v31, {kStop});
  const auto matcher = factory.matcher(compiled(factory, schema_form(R"({"type":"null"})")));
  std::vector<uint64_t> mask;
  EXPECT_FALSE(matcher->stuck());
  ASSERT_TRUE(matcher->accept('n'));
  ASSERT_TRUE(matcher->accept('u'));
  EXPECT_TRUE(matcher->stuck());
  EXPECT_FALSE(matcher->complete());
  matcher->allowed(mask);
  EXPECT_EQ(tokens_of(mask), std::vector<int32_t>{kStop});
  EXPECT_FALSE(matcher->accept('l'));
  EXPECT_TRUE(matcher->accept(kStop));
}

// Forms and their caches are shared between answers and threads.
TEST(Constraint, ManyAnswersAtOnce) {
  ConstraintFactory factory(small_tokenizer(), Encoding::v31, {kStop});
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&factory, t] {
      for (size_t i = 0; i < examples().size(); ++i) {
        const Example& e = examples()[(i * 7 + static_cast<size_t>(t)) % examples().size()];
        const auto form = compiled(factory, schema_form(e.schema));
        Walker(small_tokenizer(), i).finish(*factory.matcher(form), 20);
      }
    });
  }
  for (std::thread& t : threads) t.join();
}

}  // namespace
}  // namespace fathom
