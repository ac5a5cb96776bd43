// Tool calls in all three protocols and both encodings: they stream while they are written, a cut
// one is the part that has come, a broken one is text, and no marker comes out.
#include "server/openai_fixture.h"
#include "support/api_paths.h"

namespace fathom::server {
namespace {

using test::kChat;
using test::kMessages;
using test::kResponses;

constexpr const char* kToolPaths[] = {kChat, kMessages, kResponses};

// One call with a long text, of which much looks like markup, and a value that is no string.
const std::string kText = [] {
  std::string text = "<b>\"quoted\"</b>\n\\ ☕ </\n";
  for (int i = 0; i < 40; ++i) text += "The dog ran to line " + std::to_string(i) + ". ";
  return text;
}();
const OrderedJson kArguments = {{"text", kText}, {"lines", {1, {{"a", nullptr}}}}};

std::string call_text(Encoding encoding) {
  if (encoding == Encoding::v31) {
    return "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>write_file<｜tool▁sep｜>" +
           python_dumps(kArguments) + "<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
  }
  return "\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"write_file\">\n"
         "<｜DSML｜parameter name=\"text\" string=\"true\">" +
         kText + "</｜DSML｜parameter>\n<｜DSML｜parameter name=\"lines\" string=\"false\">" +
         python_dumps(kArguments["lines"]) +
         "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>";
}

std::string request_to(const std::string& path, int max_tokens, bool stream) {
  const OrderedJson parameters = {{"type", "object"}};
  OrderedJson body;
  if (path == kResponses) {
    body["input"] = "Write a story";
    body["tools"] = {{{"type", "function"}, {"name", "write_file"}, {"parameters", parameters}}};
    body["max_output_tokens"] = max_tokens;
    body["store"] = false;
  } else {
    body["messages"] = {{{"role", "user"}, {"content", "Write a story"}}};
    if (path == kChat)
      body["tools"] = {{{"type", "function"},
                        {"function", {{"name", "write_file"}, {"parameters", parameters}}}}};
    else
      body["tools"] = {{{"name", "write_file"}, {"input_schema", parameters}}};
    body["max_tokens"] = max_tokens;
  }
  body["stream"] = stream;
  return body.dump();
}

// What an answer says, in one form for all protocols.
struct Said {
  std::string content, name, arguments, end;
  int deltas = 0;          // of the arguments
  bool name_first = true;  // no argument came before the name
  OrderedJson input;       // /v1/messages, whole
};

void add_chat_chunk(const OrderedJson& chunk, Said& said) {
  for (const OrderedJson& choice : chunk["choices"]) {
    const OrderedJson& delta = choice["delta"];
    if (delta.contains("content") && delta["content"].is_string())
      said.content += delta["content"].get<std::string>();
    if (!choice["finish_reason"].is_null()) said.end = choice["finish_reason"];
    if (!delta.contains("tool_calls")) continue;
    for (const OrderedJson& call : delta["tool_calls"]) {
      EXPECT_EQ(call["index"], 0);
      if (call["function"].contains("name")) said.name += call["function"]["name"];
      const std::string piece = call["function"].value("arguments", "");
      if (piece.empty()) continue;
      said.name_first = said.name_first && !said.name.empty();
      said.arguments += piece;
      ++said.deltas;
    }
  }
}

void add_event(const OrderedJson& event, Said& said) {
  const std::string type = event.value("type", "");
  const auto piece = [&](const std::string& text) {
    said.name_first = said.name_first && !said.name.empty();
    said.arguments += text;
    ++said.deltas;
  };
  if (type == "content_block_start" && event["content_block"]["type"] == "tool_use")
    said.name = event["content_block"]["name"];
  if (type == "content_block_delta") {
    const OrderedJson& delta = event["delta"];
    if (delta["type"] == "text_delta") said.content += delta["text"].get<std::string>();
    if (delta["type"] == "input_json_delta") piece(delta["partial_json"]);
  }
  if (type == "message_delta") said.end = event["delta"]["stop_reason"];
  if (type == "response.output_item.added" && event["item"]["type"] == "function_call")
    said.name = event["item"]["name"];
  if (type == "response.output_text.delta") said.content += event["delta"].get<std::string>();
  if (type == "response.function_call_arguments.delta") piece(event["delta"]);
  if (type == "response.function_call_arguments.done") {
    EXPECT_EQ(event["arguments"], said.arguments);
  }
  if (type == "response.completed" || type == "response.incomplete")
    said.end = event["response"]["status"];
}

Said whole_of(const std::string& path, const OrderedJson& json) {
  Said said;
  if (path == kChat) {
    const OrderedJson& choice = json["choices"][0];
    const OrderedJson& message = choice["message"];
    if (message["content"].is_string()) said.content = message["content"];
    said.end = choice["finish_reason"];
    if (!message.contains("tool_calls")) return said;
    EXPECT_EQ(message["tool_calls"].size(), 1u);
    said.name = message["tool_calls"][0]["function"]["name"];
    said.arguments = message["tool_calls"][0]["function"]["arguments"];
  } else if (path == kMessages) {
    said.end = json["stop_reason"];
    for (const OrderedJson& block : json["content"]) {
      if (block["type"] == "text") said.content += block["text"].get<std::string>();
      if (block["type"] != "tool_use") continue;
      said.name = block["name"];
      said.input = block["input"];
    }
  } else {
    said.end = json["status"];
    for (const OrderedJson& item : json["output"]) {
      if (item["type"] == "message" && !item["content"].empty())
        said.content += item["content"][0]["text"].get<std::string>();
      if (item["type"] != "function_call") continue;
      said.name = item["name"];
      said.arguments = item["arguments"];
    }
  }
  return said;
}

class ToolStreamTest : public OpenAiTest {
 protected:
  explicit ToolStreamTest(Encoding encoding = Encoding::v31, ScriptedEngine::Options pace = {})
      : OpenAiTest(pace, encoding) {
    add_responses_routes(router, service);
    add_anthropic_routes(router, service);
  }

  Said whole(const std::string& path, int max_tokens) {
    const auto reply = post(path, request_to(path, max_tokens, false));
    EXPECT_EQ(reply->status(), 200) << reply->body();
    EXPECT_EQ(reply->body().find("｜"), std::string::npos) << reply->body();
    EXPECT_EQ(reply->body().find("DSML"), std::string::npos) << reply->body();
    return whole_of(path, OrderedJson::parse(reply->body()));
  }

  Said streamed(const std::string& path, int max_tokens) {
    const auto reply = post(path, request_to(path, max_tokens, true));
    EXPECT_EQ(reply->status(), 200) << reply->body();
    std::string body = reply->body();
    EXPECT_EQ(body.find("｜"), std::string::npos) << body;
    EXPECT_EQ(body.find("DSML"), std::string::npos) << body;
    Said said;
    if (path == kChat) {
      for (const OrderedJson& chunk : chunks_of(*reply)) add_chat_chunk(chunk, said);
    } else {
      for (const OrderedJson& event : fathom::test::sse_events(body)) add_event(event, said);
    }
    return said;
  }

  void long_call_streams() {
    answer_with("I write it." + call_text(service.options.encoding));
    for (const char* path : kToolPaths) {
      const Said plain = whole(path, 2000), said = streamed(path, 2000);
      EXPECT_EQ(said.content, "I write it.") << path;
      EXPECT_EQ(said.name, "write_file");
      EXPECT_TRUE(said.name_first);
      EXPECT_GT(said.deltas, 20) << path;
      EXPECT_EQ(OrderedJson::parse(said.arguments), kArguments);
      EXPECT_EQ(plain.content, said.content);
      EXPECT_EQ(plain.name, said.name);
      EXPECT_EQ(plain.end, said.end);
      if (path == std::string(kMessages))
        EXPECT_EQ(plain.input, kArguments);
      else
        EXPECT_EQ(plain.arguments, said.arguments);
    }
  }

  void cut_call_is_a_part() {
    answer_with("I write it." + call_text(service.options.encoding));
    const auto tokens = static_cast<int>(
        tokenizer().encode("I write it." + call_text(service.options.encoding)).size());
    const std::string text = python_dumps(kArguments);
    for (const char* path : kToolPaths) {
      for (int most = 6; most < tokens; most += most < 60 ? 1 : 37) {
        const Said plain = whole(path, most), said = streamed(path, most);
        // Line breaks in front of a block are text until the block has begun.
        EXPECT_TRUE(std::string("I write it.\n\n").starts_with(said.content)) << said.content;
        EXPECT_EQ(plain.content, said.content);
        EXPECT_EQ(plain.name, said.name);
        EXPECT_TRUE(said.name.empty() || said.name == "write_file");
        EXPECT_TRUE(text.starts_with(said.arguments)) << said.arguments;
        EXPECT_EQ(said.end, path == kChat       ? "length"
                            : path == kMessages ? "max_tokens"
                                                : "incomplete");
        EXPECT_EQ(plain.end, said.end);
        if (path != kMessages) {
          EXPECT_EQ(plain.arguments, said.arguments);
        } else if (!plain.name.empty()) {
          ASSERT_TRUE(plain.input.is_object());
          EXPECT_FALSE(plain.input.contains("INVALID_JSON"));
          if (plain.input.contains("text")) {
            EXPECT_TRUE(kText.starts_with(plain.input["text"].get<std::string>()));
          }
        }
      }
    }
    EXPECT_THAT(
        get("/metrics")->body(),
        ::testing::HasSubstr("fathom:unreadable_tool_calls_total{model_name=\"fathom-small\"} 0"));
  }
};

class ToolStreamV32Test : public ToolStreamTest {
 protected:
  ToolStreamV32Test() : ToolStreamTest(Encoding::v32) {}
};

// Token by token: an engine without a pace may hand over several at once, and they are one delta.
class PacedToolStreamTest : public ToolStreamTest {
 protected:
  explicit PacedToolStreamTest(Encoding encoding = Encoding::v31)
      : ToolStreamTest(encoding, paced()) {}

 private:
  static ScriptedEngine::Options paced() {
    ScriptedEngine::Options options;
    options.step = std::chrono::milliseconds(2);
    return options;
  }
};
class PacedToolStreamV32Test : public PacedToolStreamTest {
 protected:
  PacedToolStreamV32Test() : PacedToolStreamTest(Encoding::v32) {}
};

TEST_F(PacedToolStreamTest, ALongCallComesWhileItIsWritten) { long_call_streams(); }
TEST_F(PacedToolStreamV32Test, ALongCallComesWhileItIsWritten) { long_call_streams(); }
TEST_F(ToolStreamTest, ACutCallIsAPart) { cut_call_is_a_part(); }
TEST_F(ToolStreamV32Test, ACutCallIsAPart) { cut_call_is_a_part(); }

TEST_F(ToolStreamTest, ABrokenCallIsTextAndIsCounted) {
  answer_with(
      "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>no arguments<｜tool▁call▁end｜>"
      "<｜tool▁calls▁end｜>");
  int asked = 0;
  for (const char* path : kToolPaths) {
    for (const Said& said : {whole(path, 100), streamed(path, 100)}) {
      EXPECT_EQ(said.content, "no arguments");
      EXPECT_EQ(said.name, "");
      EXPECT_EQ(said.end, path == kChat ? "stop" : path == kMessages ? "end_turn" : "completed");
      ++asked;
    }
  }
  EXPECT_THAT(get("/metrics")->body(),
              ::testing::HasSubstr("fathom:unreadable_tool_calls_total{model_name="
                                   "\"fathom-small\"} " +
                                   std::to_string(asked)));
}

// A call that stops being readable must not look like a whole one with fewer arguments.
TEST_F(ToolStreamTest, ACallThatBecomesUnreadableIsNoWholeCall) {
  answer_with(
      "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>write_file<｜tool▁sep｜>{\"text\": \"a\", "
      "oops}<｜tool▁call▁end｜><｜tool▁calls▁end｜>");
  EXPECT_EQ(whole(kChat, 100).arguments, "{\"text\": \"a\", ");
  EXPECT_EQ(streamed(kChat, 100).arguments, "{\"text\": \"a\", ");
  EXPECT_EQ(whole(kChat, 100).content, "oops}");
  EXPECT_EQ(whole(kMessages, 100).input, (OrderedJson{{"INVALID_JSON", "{\"text\": \"a\", "}}));
}

// The characters of a marker in ordinary tokens are text, in a value as in content.
TEST_F(ToolStreamTest, AMarkersTextInAValueIsText) {
  std::vector<int32_t> ids = tokenizer().encode(
      "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>write_file<｜tool▁sep｜>{\"text\": \"");
  const std::string literal = "<｜tool▁call▁end｜></｜DSML｜parameter>";
  for (const int32_t id : tokenizer().encode_plain(literal)) ids.push_back(id);
  for (const int32_t id : tokenizer().encode("\"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"))
    ids.push_back(id);
  answer_with_ids(ids);
  const OrderedJson got = answer(kChat, request_to(kChat, 200, false));
  const OrderedJson& call = got["choices"][0]["message"]["tool_calls"][0]["function"];
  EXPECT_EQ(OrderedJson::parse(call["arguments"].get<std::string>())["text"], literal);
}

// A client that sends a cut call back in its history goes on, in both encodings.
TEST_F(ToolStreamV32Test, ACutCallInTheHistoryIsRead) {
  answer_with("ok");
  const OrderedJson call = {{"id", "c"},
                            {"type", "function"},
                            {"function", {{"name", "f"}, {"arguments", "{\"a\": \"x"}}}};
  OrderedJson body;
  body["messages"] = {{{"role", "user"}, {"content", "Q"}},
                      {{"role", "assistant"}, {"tool_calls", OrderedJson::array({call})}},
                      {{"role", "tool"}, {"tool_call_id", "c"}, {"content", "not valid JSON"}}};
  answer(kChat, body.dump());
  EXPECT_THAT(tokenizer().decode(requests.at(0).ids),
              ::testing::HasSubstr("parameter name=\"a\" string=\"true\">x</"));
}

}  // namespace
}  // namespace fathom::server
