// /v1/messages from the body of a request to the bytes of its answer.
#include <gtest/gtest.h>

#include <regex>

#include "support/scripted_service.h"
#include "support/sse_events.h"

namespace fathom::server {
namespace {

using test::ScriptedService;
using test::sse_events;

class MessagesTest : public ::testing::Test {
 protected:
  MessagesTest() { add_anthropic_routes(served.router, served.service); }

  static std::string body(const std::string& more = "") {
    return R"({"max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}])" +
           (more.empty() ? "" : ", " + more) + "}";
  }
  OrderedJson post(const std::string& text, int status = 200,
                   const std::string& path = "/v1/messages") {
    const auto reply = served.post(path, text);
    EXPECT_EQ(reply->status(), status) << reply->body();
    return OrderedJson::parse(reply->body());
  }
  std::string refusal(const std::string& text, int status = 400) {
    const OrderedJson answer = post(text, status);
    EXPECT_EQ(answer["type"], "error");
    EXPECT_EQ(answer["error"]["type"], status == 404 ? "not_found_error" : "invalid_request_error");
    return answer["error"]["message"];
  }

  ScriptedService served;
};

TEST_F(MessagesTest, Answers) {
  served.say("Hello there.");
  const OrderedJson m = post(body(R"("model": "alias", "system": "Be short.", "top_k": 5,
      "metadata": {"user_id": "u"}, "service_tier": "auto")"));
  EXPECT_EQ(m["type"], "message");
  EXPECT_EQ(m["model"], "small");
  EXPECT_EQ(m["content"].dump(), R"([{"type":"text","text":"Hello there."}])");
  EXPECT_EQ(m["stop_reason"], "end_turn");
  EXPECT_EQ(served.last_prompt(),
            "<｜begin▁of▁sentence｜>Be short.<｜User｜>Hi<｜Assistant｜></think>");
  EXPECT_EQ(served.last().sampling.top_k, 5);
  EXPECT_EQ(served.last().max_new_tokens, 50);
}

TEST_F(MessagesTest, AStreamTellsTheSame) {
  served.say("Hello there.");
  const auto reply = served.post("/v1/messages", body(R"("stream": true)"));
  const auto events = sse_events(reply->body());
  ASSERT_GT(events.size(), 6u);
  EXPECT_EQ(events[0]["type"], "message_start");
  EXPECT_EQ(events[0]["message"]["usage"]["input_tokens"], served.last().ids.size());
  std::string text;
  for (const OrderedJson& e : events) {
    if (e["type"] == "content_block_delta") text += e["delta"]["text"];
  }
  EXPECT_EQ(text, "Hello there.");
  EXPECT_EQ(events.back()["type"], "message_stop");
}

TEST_F(MessagesTest, MoreThanTheContextIsTheContext) {
  const OrderedJson m =
      post(R"({"max_tokens": 64000, "messages": [{"role": "user", "content": "Hi"}]})");
  EXPECT_EQ(m["type"], "message");
  EXPECT_EQ(served.last().max_new_tokens,
            served.engine.context() - static_cast<int64_t>(served.last().ids.size()));
}

TEST_F(MessagesTest, TooLongAPromptIsSaidInTheProtocolsWords) {
  std::string words;
  for (int i = 0; i < 5000; ++i) words += "a b ";
  for (const std::string& text : {words, std::string(1 << 20, 'a')})
    EXPECT_TRUE(std::regex_match(
        refusal(R"({"max_tokens": 5, "messages": [{"role": "user", "content": ")" + text + "\"}]}"),
        std::regex("prompt is too long: [0-9]+ tokens > 4095 maximum")));
  EXPECT_TRUE(served.engine.submitted().empty());
}

TEST_F(MessagesTest, Thinking) {
  served.say("Let me see.</think>Done.");
  for (const char* thinking : {R"({"type": "enabled", "budget_tokens": 2048})",
                               R"({"type": "adaptive", "display": "omitted"})"}) {
    const OrderedJson m = post(body(R"("thinking": )" + std::string(thinking)));
    EXPECT_TRUE(served.last_prompt().ends_with("<think>"));
    EXPECT_EQ(m["content"][0]["type"], "thinking");
    EXPECT_EQ(m["content"][1]["text"], "Done.");
    EXPECT_GT(m["usage"]["output_tokens_details"]["thinking_tokens"], 2);
  }
  served.say("Done.");
  post(body(R"("thinking": {"type": "disabled"})"));
  EXPECT_TRUE(served.last_prompt().ends_with("</think>"));
}

TEST_F(MessagesTest, StopSequences) {
  served.say("One two three.");
  const OrderedJson m = post(body(R"("stop_sequences": ["zzz", " three"])"));
  EXPECT_EQ(m["content"][0]["text"], "One two");
  EXPECT_EQ(m["stop_reason"], "stop_sequence");
  EXPECT_EQ(m["stop_sequence"], " three");
}

TEST_F(MessagesTest, Tools) {
  served.say(
      "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>look<｜tool▁sep｜>{\"at\": \"x\"}"
      "<｜tool▁call▁end｜><｜tool▁calls▁end｜>");
  const std::string tools =
      R"("tools": [{"name": "look", "description": "Looks", "input_schema": {"type": "object"}}])";
  const OrderedJson m = post(body(tools));
  EXPECT_EQ(m["stop_reason"], "tool_use");
  EXPECT_EQ(m["content"][0]["name"], "look");
  EXPECT_EQ(m["content"][0]["input"].dump(), R"({"at":"x"})");
  EXPECT_TRUE(m["content"][0]["id"].get<std::string>().starts_with("toolu_"));
  EXPECT_NE(served.last_prompt().find("### look\nDescription: Looks\n\nParameters: {\"type\": "
                                      "\"object\"}"),
            std::string::npos);
  served.say("x");
  post(body(tools + R"(, "tool_choice": {"type": "none"})"));
  EXPECT_EQ(served.last_prompt().find("## Tools"), std::string::npos);
}

TEST_F(MessagesTest, CountsWhatItWouldUse) {
  const std::string text = body(R"("system": "Be kind.")");
  const OrderedJson counted = post(text, 200, "/v1/messages/count_tokens");
  EXPECT_TRUE(served.engine.submitted().empty());
  post(text);
  EXPECT_EQ(counted["input_tokens"], served.last().ids.size());
  post(R"({"messages": [{"role": "user", "content": "Hi"}]})", 200, "/v1/messages/count_tokens");
}

TEST_F(MessagesTest, InstructionsMayBeLastOrInTheMiddle) {
  served.say("x");
  const std::string last = R"({"max_tokens": 5, "messages": [
      {"role": "user", "content": [{"type": "text", "text": "Hello!"}]},
      {"role": "system", "content": "Agents: none."}]})";
  post(last);
  const std::string prompt = served.last_prompt();
  EXPECT_EQ(prompt,
            "<｜begin▁of▁sentence｜><｜User｜>Hello!\n\nAgents: none.<｜Assistant｜></think>");
  EXPECT_EQ(post(last, 200, "/v1/messages/count_tokens")["input_tokens"], served.last().ids.size());
  // What came before stays as it was, so that it is still in the cache.
  post(R"({"max_tokens": 5, "system": "S", "messages": [{"role": "user", "content": "A"},
      {"role": "system", "content": "B"}, {"role": "assistant", "content": "C"},
      {"role": "system", "content": "D"}, {"role": "user", "content": "E"}]})");
  EXPECT_EQ(served.last_prompt(),
            "<｜begin▁of▁sentence｜>S<｜User｜>A\n\nB<｜Assistant｜></think>C<｜end▁of▁sentence｜>"
            "<｜User｜>D\n\nE<｜Assistant｜></think>");
  post(R"({"max_tokens": 5, "messages": [{"role": "system", "content": "Alone"}]})");
  EXPECT_EQ(served.last_prompt(), "<｜begin▁of▁sentence｜><｜User｜>Alone<｜Assistant｜></think>");
}

TEST_F(MessagesTest, AnAnswerBegunIsContinued) {
  served.say("B");
  const OrderedJson m = post(R"({"max_tokens": 5, "thinking": {"type": "adaptive"}, "messages": [
      {"role": "user", "content": "A or B?"}, {"role": "assistant", "content": "It is "}]})");
  EXPECT_EQ(served.last_prompt(),
            "<｜begin▁of▁sentence｜><｜User｜>A or B?<｜Assistant｜></think>It is ");
  EXPECT_EQ(m["content"][0]["text"], "B");
  // One that says nothing yet is as good as none.
  post(R"({"max_tokens": 5, "messages": [{"role": "user", "content": "A"},
      {"role": "assistant", "content": ""}]})");
  EXPECT_TRUE(served.last_prompt().ends_with("<｜Assistant｜></think>"));
}

TEST_F(MessagesTest, ThreadsAreRefusedInTheWordsThatClientsFallBackOn) {
  for (const char* path : {"/v1/messages", "/v1/messages/count_tokens"}) {
    const OrderedJson answer = post(body(R"("thread": {"type": "create"})"), 400, path);
    EXPECT_EQ(answer["error"]["type"], "invalid_request_error");
    EXPECT_EQ(answer["error"]["details"].dump(),
              R"({"error_code":"thread_unsupported_request","unsupported":["thread"]})");
  }
  post(body(R"("thread": null)"));
}

TEST_F(MessagesTest, FieldsWithoutEffectPass) {
  served.say("x");
  post(body(R"("service_tier": "auto", "metadata": {"user_id": "u"}, "betas": ["x"],
      "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
      "output_config": {"effort": "high"}, "diagnostics": {}, "speed": "standard",
      "thinking": {"type": "between_tools"}, "cache_control": {"type": "ephemeral"},
      "tools": [{"name": "t", "input_schema": {"type": "object"}, "eager_input_streaming": true,
                 "defer_loading": false, "input_examples": [{}], "allowed_callers": ["direct"]}])"));
}

TEST_F(MessagesTest, AFormatUnderItsOldName) {
  served.say("{}");
  post(body(R"("output_format": {"type": "json_schema", "schema": {"type": "object"}})"));
  EXPECT_NE(served.last().constraint, nullptr);
}

TEST_F(MessagesTest, Failures) {
  served.say("One");
  served.fail_with("the device gave up");
  const auto whole = served.post("/v1/messages", body());
  EXPECT_EQ(whole->status(), 500);
  EXPECT_EQ(OrderedJson::parse(whole->body())["error"]["type"], "api_error");
  const auto stream = served.post("/v1/messages", body(R"("stream": true)"));
  const auto events = sse_events(stream->body());
  EXPECT_EQ(events.back()["type"], "error");
  EXPECT_EQ(events.back()["error"]["message"], "the device gave up");
}

TEST_F(MessagesTest, AVanishedClientIsForgotten) {
  test::ScriptedEngine::Options by_hand;
  by_hand.by_hand = true;
  ScriptedService slow([](ServiceOptions&) {}, by_hand);
  add_anthropic_routes(slow.router, slow.service);
  slow.say("One two three four five.");
  const auto reply = slow.begin("POST", "/v1/messages", body(R"("stream": true)"));
  EXPECT_TRUE(reply->streaming());
  reply->abandon();
  reply->run();
  EXPECT_TRUE(slow.engine.wait_cancelled(1));
  slow.engine.advance();
  EXPECT_TRUE(slow.engine.wait_idle());
}

TEST_F(MessagesTest, RefusalsNameThePlace) {
  EXPECT_EQ(refusal(body(R"("model": "claude")"), 404),
            "model: 'claude' is not served here: expected 'small' or 'alias'");
  EXPECT_EQ(refusal(R"({"messages": [{"role": "user", "content": "Hi"}]})"),
            "max_tokens: expected an integer, found nothing");
  EXPECT_EQ(refusal(R"({"max_tokens": 0, "messages": []})"),
            "max_tokens: expected 1 to 1099511627776, found 0");
  EXPECT_EQ(refusal(R"({"max_tokens": 1, "messages": []})"),
            "messages: expected at least one, found none");
  EXPECT_EQ(refusal(body(R"("thinking": {"type": "enabled", "budget_tokens": 5})")),
            "thinking.budget_tokens: expected 1024 to 1099511627776, found 5");
  EXPECT_EQ(refusal(body(R"("thinking": {"type": "enabled"})")),
            "thinking.budget_tokens: expected an integer, found nothing");
  EXPECT_EQ(refusal(body(R"("thinking": {"type": "deep"})")),
            "thinking.type: expected enabled, adaptive or disabled, found 'deep'");
  EXPECT_EQ(refusal(body(R"("tool_choice": {"type": "any"})")),
            "tool_choice: a tool must be called, but there are none");
  EXPECT_EQ(refusal(body(R"("tool_choice": {"type": "tool", "name": "x"})")),
            "tool_choice: 'x' is none of the tools");
  EXPECT_EQ(refusal(body(R"("stop_sequences": [""])")),
            "stop_sequences[0]: expected a text of 1 to 4096 bytes, found 0");
  EXPECT_EQ(refusal(body(R"("stop_sequences": [")" + std::string(4097, 'x') + "\"]")),
            "stop_sequences[0]: expected a text of 1 to 4096 bytes, found 4097");
  EXPECT_EQ(refusal(body(R"("container": "c")")),
            "container: this server does not support it: no code is run here");
  EXPECT_EQ(refusal(body(R"("context_management": {"edits": [{"type": "clear_tool_uses"}]})")),
            "context_management.edits[0].type: this server does not support 'clear_tool_uses'");
  EXPECT_EQ(refusal(body(R"("output_config": {"format": {"type": "xml"}})")),
            "output_config.format.type: expected json_schema, found 'xml'");
  EXPECT_TRUE(refusal("{").starts_with("the body: not valid JSON"));
}

}  // namespace
}  // namespace fathom::server
