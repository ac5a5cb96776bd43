// The form of answers as clients ask for it: tools beside a schema, schemas as generators write
// them, strict or not, and the functions of before there were tools. What the engine is told to
// keep to is looked at; it plays scripts and would keep to nothing.
#include <fstream>

#include "server/openai_fixture.h"
#include "support/api_paths.h"

namespace fathom::server {
namespace {

using test::kChat;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

// Bodies that programs have sent.
OrderedJson sent(const std::string& name) {
  std::ifstream file(std::string(FATHOM_SOURCE_DIR) + "/tests/data/requests/" + name + ".json");
  return OrderedJson::parse(file);
}

class StructuredTest : public OpenAiTest {
 protected:
  explicit StructuredTest(Encoding encoding = Encoding::v31,
                          ScriptedEngine::Options engine_options = {})
      : OpenAiTest(engine_options, encoding) {
    add_responses_routes(router, service);
    add_anthropic_routes(router, service);
  }

  // As the base's, and leaves the constraint to may_answer().
  void answer_with(const std::string& text) {
    author = [this, ids = tokenizer().encode(text, false)](const Request& r) {
      requests.push_back(r);
      requests.back().sink = nullptr;
      return Script{ids, {}, false};
    };
  }

  // Whether the answer to the last request may be `text`.
  bool may_answer(const std::string& text) {
    EXPECT_TRUE(requests.back().constraint) << "any answer is allowed";
    if (!requests.back().constraint) return true;
    // The text is tried on a request of its own: a constraint goes along one answer.
    const auto constraint = requests.back().constraint;
    std::vector<int32_t> ids = tokenizer().encode(text, false);
    ids.push_back(eos());
    for (const int32_t id : ids) {
      const auto mask = constraint->allowed();
      if (!(mask[static_cast<size_t>(id) / 64] >> (id % 64) & 1)) return false;
      constraint->accept(id);
    }
    return true;
  }

  // The same request to each protocol: a tool, and a schema of the answer.
  static OrderedJson tool_and_schema(const std::string& path, const OrderedJson& parameters,
                                     const OrderedJson& schema, bool strict) {
    OrderedJson body;
    if (path == "/v1/responses") {
      body["input"] = "Q";
      body["store"] = false;
      body["tools"] = {
          {{"type", "function"}, {"name", "look"}, {"strict", strict}, {"parameters", parameters}}};
      body["text"]["format"] = {
          {"type", "json_schema"}, {"name", "x"}, {"strict", strict}, {"schema", schema}};
      return body;
    }
    body["messages"] = {{{"role", "user"}, {"content", "Q"}}};
    body["max_tokens"] = 50;
    if (path == kChat) {
      body["tools"] = {
          {{"type", "function"},
           {"function", {{"name", "look"}, {"strict", strict}, {"parameters", parameters}}}}};
      body["response_format"] = {
          {"type", "json_schema"},
          {"json_schema", {{"name", "x"}, {"strict", strict}, {"schema", schema}}}};
    } else {
      body["tools"] = {{{"name", "look"}, {"strict", strict}, {"input_schema", parameters}}};
      body["output_config"]["format"] = {
          {"type", "json_schema"}, {"strict", strict}, {"schema", schema}};
    }
    return body;
  }

  const std::string call_ =
      "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>look<｜tool▁sep｜>{\"q\": \"x\"}"
      "<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
  const OrderedJson look_ =
      OrderedJson::parse(R"({"type":"object","properties":{"q":{"type":"string"}},"required":["q"],
                             "additionalProperties":false})");
  const OrderedJson known_ = OrderedJson::parse(
      R"({"type":"object","properties":{"known":{"type":"boolean"}},"required":["known"],
          "additionalProperties":false})");
};

TEST_F(StructuredTest, ToolsAndASchemaAtOnce) {
  answer_with("{\"known\": true}");
  for (const char* path : {kChat, "/v1/messages", "/v1/responses"}) {
    const std::string body = tool_and_schema(path, look_, known_, true).dump();
    for (const auto& [text, allowed] :
         {std::pair<std::string, bool>{"{\"known\": true}", true},
          {call_, true},
          {"Yes.", false},
          {"{\"known\": 1}", false},
          {"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>other", false},
          {"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>look<｜tool▁sep｜>{}", false}}) {
      const auto reply = post(path, body);
      ASSERT_EQ(reply->status(), 200) << reply->body();
      EXPECT_EQ(may_answer(text), allowed) << path << " " << text;
      EXPECT_THAT(tokenizer().decode(requests.back().ids), HasSubstr("### look"));
    }
  }
  answer(kChat, sent("chat-tools-and-schema").dump());
  EXPECT_TRUE(may_answer("{\"known\": false}"));
}

TEST_F(StructuredTest, ReasoningStaysFree) {
  answer_with("Hm</think>{\"known\": true}");
  OrderedJson body = tool_and_schema(kChat, look_, known_, true);
  body["reasoning_effort"] = "high";
  answer(kChat, body.dump());
  EXPECT_TRUE(may_answer("Anything { at all.</think>" + call_));
}

TEST_F(StructuredTest, StrictRefusesByThePlaceInTheRequest) {
  const OrderedJson bad = OrderedJson::parse(
      R"({"type":"object","properties":{"q":{"type":"string","pattern":"(a)\\1"}},"required":["q"]})");
  struct Case {
    const char *path, *tool, *format;
  };
  for (const Case& c : {Case{kChat, "tools[0].function.parameters.properties.q.pattern: ",
                             "response_format.json_schema.schema.properties.q.pattern: "},
                        Case{"/v1/responses", "tools[0].parameters.properties.q.pattern: ",
                             "text.format.schema.properties.q.pattern: "},
                        Case{"/v1/messages", "tools[0].input_schema.properties.q.pattern: ",
                             "output_config.format.schema.properties.q.pattern: "}}) {
    EXPECT_THAT(refusal(c.path, tool_and_schema(c.path, bad, known_, true).dump())["message"]
                    .get<std::string>(),
                StartsWith(c.tool));
    EXPECT_THAT(refusal(c.path, tool_and_schema(c.path, look_, bad, true).dump())["message"]
                    .get<std::string>(),
                StartsWith(c.format));
    // Without it the rest is enforced.
    answer_with("{\"q\": \"aa\"}");
    const auto reply = post(c.path, tool_and_schema(c.path, bad, bad, false).dump());
    ASSERT_EQ(reply->status(), 200) << reply->body();
    EXPECT_FALSE(may_answer("{\"q\": 1}"));
  }
  OrderedJson body = tool_and_schema(kChat, bad, known_, true);
  EXPECT_EQ(refusal(kChat, body.dump())["param"], "tools");
  EXPECT_EQ(refusal(kChat, tool_and_schema(kChat, look_, bad, true).dump())["param"],
            "response_format");
}

TEST_F(StructuredTest, AnEmailAsZodWritesIt) {
  answer_with("{\"a\": \"ann@example.com\"}");
  for (const auto& [text, allowed] : {std::pair<std::string, bool>{"{\"a\": \"ann@x.com\"}", true},
                                      {"{\"a\": \"ann\"}", false}}) {
    answer(kChat, sent("chat-zod4-email").dump());
    EXPECT_EQ(may_answer(text), allowed) << text;
  }
}

TEST_F(StructuredTest, AJsonObjectWithASchemaFollowsIt) {
  answer_with("{\"known\": true}");
  OrderedJson body;
  body["messages"] = {{{"role", "user"}, {"content", "Q"}}};
  body["response_format"] = {{"type", "json_object"}, {"schema", known_}};
  answer(kChat, body.dump());
  EXPECT_FALSE(may_answer("{\"other\": 1}"));
  body["response_format"].erase("schema");
  answer(kChat, body.dump());
  EXPECT_TRUE(may_answer("{\"other\": 1}"));
}

TEST_F(StructuredTest, FunctionsOfBeforeThereWereTools) {
  answer_with("I look." + call_);
  OrderedJson body;
  body["messages"] = {{{"role", "user"}, {"content", "Q"}}};
  body["functions"] = {{{"name", "look"}, {"description", "Looks"}, {"parameters", look_}}};
  const OrderedJson choice = answer(kChat, body.dump())["choices"][0];
  EXPECT_EQ(choice["finish_reason"], "function_call");
  EXPECT_EQ(choice["message"]["content"], "I look.");
  EXPECT_EQ(choice["message"]["function_call"],
            (OrderedJson{{"name", "look"}, {"arguments", "{\"q\": \"x\"}"}}));
  EXPECT_FALSE(choice["message"].contains("tool_calls"));
  EXPECT_THAT(tokenizer().decode(requests.back().ids), HasSubstr("### look\nDescription: Looks"));

  body["stream"] = true;
  std::string name, arguments, reason;
  for (const OrderedJson& chunk : stream(kChat, body.dump())) {
    const OrderedJson& c = chunk["choices"][0];
    EXPECT_FALSE(c["delta"].contains("tool_calls"));
    if (c["delta"].contains("function_call")) {
      name += c["delta"]["function_call"].value("name", "");
      arguments += c["delta"]["function_call"].value("arguments", "");
    }
    if (!c["finish_reason"].is_null()) reason = c["finish_reason"];
  }
  EXPECT_EQ(name, "look");
  EXPECT_EQ(arguments, "{\"q\": \"x\"}");
  EXPECT_EQ(reason, "function_call");

  body["stream"] = false;
  body["function_call"] = {{"name", "look"}};
  answer(kChat, body.dump());
  EXPECT_FALSE(may_answer("No."));
  body["function_call"] = "none";
  answer(kChat, body.dump());
  EXPECT_THAT(tokenizer().decode(requests.back().ids), ::testing::Not(HasSubstr("### look")));
  body["function_call"] = {{"name", "other"}};
  EXPECT_EQ(refusal(kChat, body.dump())["param"], "function_call.name");

  // Its own history.
  body.erase("function_call");
  body["messages"].push_back(
      {{"role", "assistant"},
       {"content", nullptr},
       {"function_call", {{"name", "look"}, {"arguments", "{\"q\": \"x\"}"}}}});
  body["messages"].push_back({{"role", "function"}, {"name", "look"}, {"content", "found"}});
  answer(kChat, body.dump());
  EXPECT_THAT(tokenizer().decode(requests.back().ids),
              HasSubstr("{\"q\": \"x\"}<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>"
                        "<｜tool▁output▁begin｜>found<｜tool▁output▁end｜>"));
}

// The streamed case and the cut one, as they were sent; the scripted engine plays the model.
TEST_F(StructuredTest, ForcedCallsAsTheyWereSent) {
  std::string text;
  for (int i = 0; i < 40; ++i) text += "The dog ran home. ";
  answer_with("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>write_file<｜tool▁sep｜>{\"text\": \"" +
              text + "\"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>");
  const OrderedJson cut = answer(kChat, sent("chat-forced-call-cut").dump())["choices"][0];
  EXPECT_EQ(cut["finish_reason"], "length");
  EXPECT_TRUE(cut["message"]["content"].is_null());
  const std::string part = cut["message"]["tool_calls"][0]["function"]["arguments"];
  EXPECT_TRUE(("{\"text\": \"" + text).starts_with(part)) << part;
  EXPECT_GT(part.size(), 20u);
}

class StructuredByHandTest : public StructuredTest {
 protected:
  static ScriptedEngine::Options by_hand() {
    ScriptedEngine::Options o;
    o.by_hand = true;
    return o;
  }
  StructuredByHandTest() : StructuredTest(Encoding::v31, by_hand()) {}
};

// The name with the first byte of the arguments, and of these what each token brought.
TEST_F(StructuredByHandTest, AForcedCallAsItWasSentComesTokenByToken) {
  std::string text;
  for (int i = 0; i < 40; ++i) text += "The dog ran home. ";
  const std::string head = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>write_file<｜tool▁sep｜>";
  const std::string object = "{\"text\": \"" + text + "\"}";
  answer_with(head + object + "<｜tool▁call▁end｜><｜tool▁calls▁end｜>");
  const size_t head_tokens = tokenizer().encode(head, false).size();
  const size_t object_tokens = tokenizer().encode(object, false).size();
  const auto reply = start("POST", kChat, sent("chat-long-call-stream").dump());
  std::string name, arguments;
  const auto hear = [&](const std::string& bytes) {
    for (const OrderedJson& chunk : fathom::test::sse_events(bytes)) {
      const OrderedJson& delta = chunk["choices"][0]["delta"];
      EXPECT_TRUE(!delta.contains("content") || delta["content"].is_null()) << delta;
      if (!delta.contains("tool_calls")) continue;
      const OrderedJson& function = delta["tool_calls"][0]["function"];
      name += function.value("name", "");
      arguments += function.value("arguments", "");
    }
  };
  size_t heard = 0;
  for (size_t token = 0; token < head_tokens + object_tokens; ++token) {
    engine.advance();
    while (reply->run() == 0) std::this_thread::yield();
    const std::vector<std::string> writes = reply->writes();
    const size_t before = arguments.size();
    for (; heard < writes.size(); ++heard) hear(writes[heard]);
    EXPECT_TRUE(object.starts_with(arguments)) << arguments;
    if (token < head_tokens) continue;
    EXPECT_EQ(name, "write_file");
    EXPECT_GT(arguments.size(), before) << "token " << token << " brought nothing";
  }
  EXPECT_EQ(arguments, object);
  engine.advance(10);
  EXPECT_TRUE(reply->run_until_complete());
}

// The format reaches the model where its encoding has a place for it, or where it is asked for.
TEST_F(StructuredTest, TheFormatIsShownWhereItIsAskedFor) {
  answer_with("{\"known\": true}");
  const std::string shown =
      "## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n"
      "{\"type\": \"json_schema\", \"json_schema\": {\"name\": ";
  for (const char* path : {kChat, "/v1/messages", "/v1/responses"}) {
    const OrderedJson body = tool_and_schema(path, look_, known_, true);
    service.options.show_format.reset();
    post(path, body.dump());
    EXPECT_THAT(tokenizer().decode(requests.back().ids), Not(HasSubstr("## Response Format")));
    service.options.show_format = true;
    post(path, body.dump());
    EXPECT_THAT(tokenizer().decode(requests.back().ids), HasSubstr(shown));
    EXPECT_THAT(tokenizer().decode(requests.back().ids), HasSubstr("{\"known\": {\"type\""));
  }
  OrderedJson body = tool_and_schema(kChat, look_, known_, true);
  body["messages"] = {{{"role", "system"}, {"content", "Be short."}},
                      {{"role", "user"}, {"content", "Q"}}};
  post(kChat, body.dump());
  EXPECT_THAT(tokenizer().decode(requests.back().ids),
              HasSubstr("<｜begin▁of▁sentence｜>Be short.\n\n" + shown));
}

class StructuredV32Test : public StructuredTest {
 protected:
  StructuredV32Test() : StructuredTest(Encoding::v32) {}
};

TEST_F(StructuredV32Test, TheFormatIsShownUnlessItIsNotWanted) {
  answer_with("{\"known\": true}");
  const std::string body = tool_and_schema(kChat, look_, known_, true).dump();
  post(kChat, body);
  EXPECT_THAT(tokenizer().decode(requests.back().ids), HasSubstr("\n\n## Response Format:\n\n"));
  service.options.show_format = false;
  post(kChat, body);
  EXPECT_THAT(tokenizer().decode(requests.back().ids), Not(HasSubstr("## Response Format")));
  EXPECT_TRUE(may_answer("{\"known\": true}"));
}

}  // namespace
}  // namespace fathom::server
