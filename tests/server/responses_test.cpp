// /v1/responses from the body of a request to the bytes of its answer.
#include <gtest/gtest.h>

#include <fstream>

#include "support/scripted_service.h"
#include "support/sse_events.h"

namespace fathom::server {
namespace {

using test::ScriptedService;
using test::sse_events;

class ResponsesTest : public ::testing::Test {
 protected:
  ResponsesTest() { add_responses_routes(served.router, served.service); }

  OrderedJson post(const std::string& body, int status = 200) {
    const auto reply = served.post("/v1/responses", body);
    EXPECT_EQ(reply->status(), status) << reply->body();
    return OrderedJson::parse(reply->body());
  }
  // The place and the message of a request that is refused.
  std::string refusal(const std::string& body, int status = 400) {
    const OrderedJson error = post(body, status)["error"];
    EXPECT_EQ(error["type"], status == 404 ? "not_found_error" : "invalid_request_error");
    return (error["param"].is_null() ? "-" : error["param"].get<std::string>()) + " | " +
           error["message"].get<std::string>();
  }

  ScriptedService served;
};

TEST_F(ResponsesTest, AnswersAndEchoes) {
  served.say("Hello there.");
  const OrderedJson r = post(R"({"model": "small", "input": "Hi", "instructions": "Be short.",
      "temperature": 0.3, "max_output_tokens": 50, "metadata": {"a": "b"}, "seed": 9})");
  EXPECT_EQ(r["object"], "response");
  EXPECT_EQ(r["status"], "completed");
  EXPECT_EQ(r["output"][0]["content"][0]["text"], "Hello there.");
  EXPECT_EQ(r["temperature"], 0.3);
  EXPECT_EQ(r["instructions"], "Be short.");
  EXPECT_EQ(r["metadata"]["a"], "b");
  EXPECT_EQ(r["usage"]["input_tokens"], served.last().ids.size());
  EXPECT_EQ(served.last_prompt(),
            "<｜begin▁of▁sentence｜>Be short.<｜User｜>Hi<｜Assistant｜></think>");
  EXPECT_EQ(served.last().max_new_tokens, 50);
  EXPECT_EQ(served.last().sampling.seed, 9u);
}

TEST_F(ResponsesTest, AStreamTellsTheSame) {
  served.say("Hello there.");
  const auto reply = served.post("/v1/responses", R"({"input": "Hi", "stream": true})");
  EXPECT_EQ(reply->status(), 200);
  EXPECT_TRUE(reply->content_type().starts_with("text/event-stream"));
  const auto events = sse_events(reply->body());
  ASSERT_GT(events.size(), 4u);
  for (size_t i = 0; i < events.size(); ++i) EXPECT_EQ(events[i]["sequence_number"], i);
  EXPECT_EQ(events.back()["type"], "response.completed");
  EXPECT_EQ(events.back()["response"]["output"][0]["content"][0]["text"], "Hello there.");
}

TEST_F(ResponsesTest, ReasoningWhenAsked) {
  served.say("Let me see.</think>Done.");
  const OrderedJson r = post(R"({"input": "Hi", "reasoning": {"effort": "low"}})");
  EXPECT_TRUE(served.last_prompt().ends_with("<think>"));
  EXPECT_EQ(r["output"][0]["content"][0]["text"], "Let me see.");
  EXPECT_EQ(r["output"][1]["content"][0]["text"], "Done.");
  EXPECT_GT(r["usage"]["output_tokens_details"]["reasoning_tokens"], 2);
  EXPECT_EQ(r["reasoning"]["effort"], "low");
  post(R"({"input": "Hi", "reasoning": {"effort": "minimal"}})");
  EXPECT_TRUE(served.last_prompt().ends_with("</think>"));
}

constexpr const char* kCall =
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>look<｜tool▁sep｜>{\"at\": \"x\"}"
    "<｜tool▁call▁end｜><｜tool▁calls▁end｜>";

TEST_F(ResponsesTest, CallsGoRound) {
  served.say(kCall);
  const std::string tools =
      R"("tools": [{"type": "function", "name": "look", "description": "Looks",
      "parameters": {"type": "object", "properties": {}}, "strict": true}, {"type": "web_search"}])";
  const OrderedJson r = post(R"({"input": "Hi", )" + tools + "}");
  ASSERT_EQ(r["output"].size(), 1u);
  const OrderedJson& call = r["output"][0];
  EXPECT_EQ(call["type"], "function_call");
  EXPECT_EQ(call["arguments"], "{\"at\": \"x\"}");
  EXPECT_EQ(r["tools"].size(), 1u) << "what is not offered is not listed";
  EXPECT_NE(served.last_prompt().find("### look\nDescription: Looks"), std::string::npos);

  served.say("Seen.");
  const std::string output = R"({"type": "function_call_output", "output": "y", "call_id": )" +
                             call["call_id"].dump() + "}";
  const std::string previous = r["id"];
  const OrderedJson next =
      post(R"({"input": [)" + output + R"(], "previous_response_id": ")" + previous + "\"}");
  EXPECT_EQ(next["output"][0]["content"][0]["text"], "Seen.");
  const std::string prompt = served.last_prompt();
  EXPECT_TRUE(prompt.ends_with(std::string(kCall) + "<｜end▁of▁sentence｜><｜tool▁output▁begin｜>y"
                                                    "<｜tool▁output▁end｜>"))
      << prompt;
  EXPECT_EQ(prompt.find("### look"), std::string::npos) << "tools are not carried over";
}

TEST_F(ResponsesTest, ConversationsGoOnById) {
  served.say("One.");
  const OrderedJson first = post(R"({"input": "A", "instructions": "Old."})");
  const std::string by_id = R"({"input": "B", "instructions": "New.", "previous_response_id": ")" +
                            first["id"].get<std::string>() + "\"}";
  post(by_id);
  const std::string prompt = served.last_prompt();
  EXPECT_EQ(prompt,
            "<｜begin▁of▁sentence｜>New.<｜User｜>A<｜Assistant｜></think>One.<｜end▁of▁sentence｜>"
            "<｜User｜>B<｜Assistant｜></think>");
  const auto got = served.ask("GET", "/v1/responses/" + first["id"].get<std::string>(), "");
  EXPECT_EQ(OrderedJson::parse(got->body()), first);
  const auto gone = served.ask("DELETE", "/v1/responses/" + first["id"].get<std::string>(), "");
  EXPECT_EQ(OrderedJson::parse(gone->body())["deleted"], true);
  EXPECT_EQ(served.ask("GET", "/v1/responses/" + first["id"].get<std::string>(), "")->status(),
            404);
  EXPECT_EQ(served.ask("DELETE", "/v1/responses/x", "")->status(), 404);
  EXPECT_TRUE(refusal(by_id).starts_with("previous_response_id | "));
}

TEST_F(ResponsesTest, NotStoredIsNotKept) {
  const OrderedJson r = post(R"({"input": "A", "store": false})");
  EXPECT_EQ(r["store"], false);
  EXPECT_EQ(served.ask("GET", "/v1/responses/" + r["id"].get<std::string>(), "")->status(), 404);
}

TEST_F(ResponsesTest, CutAndFailed) {
  served.say("One two three four.");
  const OrderedJson cut = post(R"({"input": "A", "max_output_tokens": 2})");
  EXPECT_EQ(cut["status"], "incomplete");
  EXPECT_EQ(cut["incomplete_details"]["reason"], "max_output_tokens");
  served.fail_with("the device gave up");
  const auto whole = served.post("/v1/responses", R"({"input": "A"})");
  EXPECT_EQ(whole->status(), 500);
  EXPECT_EQ(OrderedJson::parse(whole->body())["error"]["type"], "server_error");
  const auto stream = served.post("/v1/responses", R"({"input": "A", "stream": true})");
  const auto events = sse_events(stream->body());
  EXPECT_EQ(events.back()["type"], "response.failed");
  EXPECT_EQ(events.back()["response"]["error"]["message"], "the device gave up");
  const std::string id = events.back()["response"]["id"];
  EXPECT_EQ(served.ask("GET", "/v1/responses/" + id, "")->status(), 404) << "nothing to go on from";
}

TEST_F(ResponsesTest, AVanishedClientIsForgotten) {
  test::ScriptedEngine::Options by_hand;
  by_hand.by_hand = true;
  ScriptedService slow([](ServiceOptions&) {}, by_hand);
  add_responses_routes(slow.router, slow.service);
  slow.say("One two three four five.");
  const auto reply = slow.begin("POST", "/v1/responses", R"({"input": "A", "stream": true})");
  EXPECT_TRUE(reply->streaming());
  reply->abandon();
  reply->run();
  EXPECT_TRUE(slow.engine.wait_cancelled(1));
  slow.engine.advance();
  EXPECT_TRUE(slow.engine.wait_idle());
}

TEST_F(ResponsesTest, CountsWhatItWouldUse) {
  const auto counted = served.post("/v1/responses/input_tokens", R"({"input": "Hi"})");
  EXPECT_TRUE(served.engine.submitted().empty());
  post(R"({"input": "Hi"})");
  EXPECT_EQ(OrderedJson::parse(counted->body())["input_tokens"], served.last().ids.size());
}

TEST_F(ResponsesTest, ChoiceOfTools) {
  const std::string tools = R"("tools": [{"type": "function", "name": "a"},
      {"type": "function", "name": "b", "parameters": {"type": "object"}}])";
  const auto prompt = [&](const std::string& choice) {
    served.say("x");
    post(R"({"input": "A", "tool_choice": )" + choice + ", " + tools + "}");
    return served.last_prompt();
  };
  EXPECT_EQ(prompt("\"none\"").find("## Tools"), std::string::npos);
  EXPECT_NE(prompt("\"auto\"").find("### a"), std::string::npos);
  const std::string allowed = prompt(
      R"({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "b"}]})");
  EXPECT_EQ(allowed.find("### a"), std::string::npos);
  EXPECT_NE(allowed.find("### b"), std::string::npos);
}

constexpr const char* kWeather =
    R"("tools": [{"type": "namespace", "name": "mcp__weather", "description": "Weather tools",
        "tools": [{"type": "function", "name": "get", "strict": false, "parameters": {"type":
        "object"}}]}, {"type": "custom", "name": "apply_patch"}, {"type": "tool_search"}])";

TEST_F(ResponsesTest, NamespacesGoRound) {
  served.say(
      "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>mcp__weather__get<｜tool▁sep｜>{}"
      "<｜tool▁call▁end｜><｜tool▁calls▁end｜>");
  const std::string tools = kWeather;
  const OrderedJson r = post(R"({"input": "Hi", )" + tools + "}");
  const OrderedJson& call = r["output"][0];
  EXPECT_EQ(call["name"], "get");
  EXPECT_EQ(call["namespace"], "mcp__weather");
  EXPECT_EQ(r["tools"].size(), 1u);
  EXPECT_NE(served.last_prompt().find("### mcp__weather__get\nDescription: Weather tools"),
            std::string::npos);
  const auto reply =
      served.post("/v1/responses", R"({"stream": true, "input": "Hi", )" + tools + "}");
  for (const OrderedJson& event : sse_events(reply->body())) {
    if (event["type"] != "response.output_item.added") continue;
    EXPECT_EQ(event["item"]["name"], "get");
    EXPECT_EQ(event["item"]["namespace"], "mcp__weather");
  }
  // By the id and by the items themselves the model reads the same.
  const OrderedJson output = {
      {"type", "function_call_output"}, {"output", "rain"}, {"call_id", call["call_id"]}};
  served.say("Rain.");
  post(R"({"input": [)" + output.dump() + R"(], "previous_response_id": )" + r["id"].dump() + ", " +
       tools + "}");
  const std::string by_id = served.last_prompt();
  post(R"({"input": [{"role": "user", "content": "Hi"}, )" + call.dump() + ", " + output.dump() +
       "], " + tools + "}");
  EXPECT_EQ(served.last_prompt(), by_id);
  EXPECT_NE(by_id.find("mcp__weather__get<｜tool▁sep｜>{}"), std::string::npos);
  post(R"({"input": "Hi", "tool_choice": {"type": "function", "name": "get", "namespace":
       "mcp__weather"}, )" +
       tools + "}");
  EXPECT_NE(served.last().constraint, nullptr);
}

// As a program has sent it, and with the name as models write it that have learnt it without the
// namespace: the call says both apart, streamed or not, and so does the next turn.
TEST_F(ResponsesTest, ACallWithoutItsNamespaceIsTheToolsOfThatName) {
  std::ifstream file(FATHOM_SOURCE_DIR "/tests/data/requests/responses-namespace-tools.json");
  OrderedJson body = OrderedJson::parse(file);
  for (const char* written : {"get_weather", "mcp__weather__get_weather"}) {
    served.say("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>" + std::string(written) +
               "<｜tool▁sep｜>{\"city\": \"Paris\"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>");
    body["stream"] = false;
    const OrderedJson call = post(body.dump())["output"][0];
    EXPECT_EQ(call["name"], "get_weather");
    EXPECT_EQ(call["namespace"], "mcp__weather");
    body["stream"] = true;
    int told = 0;
    const auto check = [&](const OrderedJson& item) {
      EXPECT_EQ(item["name"], "get_weather");
      EXPECT_EQ(item["namespace"], "mcp__weather");
      ++told;
    };
    for (const OrderedJson& event : sse_events(served.post("/v1/responses", body.dump())->body())) {
      if (event.contains("item")) check(event["item"]);
      if (event["type"] == "response.completed") check(event["response"]["output"][0]);
    }
    EXPECT_EQ(told, 3);  // added, done, completed
    OrderedJson next = body;
    next["stream"] = false;
    next["input"] = {
        {{"role", "user"}, {"content", body["input"]}},
        call,
        {{"type", "function_call_output"}, {"call_id", call["call_id"]}, {"output", "rain"}}};
    served.say("Rain.");
    post(next.dump());
    EXPECT_NE(served.last_prompt().find("mcp__weather__get_weather<｜tool▁sep｜>"),
              std::string::npos);
  }
}

TEST_F(ResponsesTest, ToolsMayComeWithTheInput) {
  served.say("x");
  post(R"({"input": [{"role": "user", "content": "Hi"}, {"type": "additional_tools", "role":
       "developer", "tools": [{"type": "function", "name": "late"}]}]})");
  EXPECT_NE(served.last_prompt().find("### late"), std::string::npos);
}

TEST_F(ResponsesTest, InstructionsInTheMiddleStayInTheirPlace) {
  served.say("x");
  post(R"({"input": [{"role": "developer", "content": "D"}, {"role": "user", "content": "A"},
       {"role": "assistant", "content": "B"}, {"role": "user", "content": "C"},
       {"role": "developer", "content": "E"}]})");
  EXPECT_EQ(served.last_prompt(),
            "<｜begin▁of▁sentence｜>D<｜User｜>A<｜Assistant｜></think>B<｜end▁of▁sentence｜>"
            "<｜User｜>C\n\nE<｜Assistant｜></think>");
}

TEST_F(ResponsesTest, TheLastMessageMayBeAnybodys) {
  served.say("x");
  post(R"({"input": [{"role": "developer", "content": "Say x"}]})");
  EXPECT_EQ(served.last_prompt(), "<｜begin▁of▁sentence｜><｜User｜>Say x<｜Assistant｜></think>");
  post(R"({"input": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]})");
  EXPECT_EQ(served.last_prompt(), "<｜begin▁of▁sentence｜><｜User｜>A<｜Assistant｜></think>B");
}

TEST_F(ResponsesTest, InputItemsAreKept) {
  served.say("x");
  const OrderedJson r = post(R"({"input": [{"role": "user", "content": "A"}, {"role": "assistant",
      "id": "msg_b", "content": "B"}, {"role": "user", "content": "C"}]})");
  const std::string path = "/v1/responses/" + r["id"].get<std::string>() + "/input_items";
  const auto list = [&](std::map<std::string, std::string> query) {
    auto request = std::make_shared<HttpRequest>();
    request->method = "GET";
    request->path = path;
    request->query = std::move(query);
    auto reply = std::make_shared<FakeReply>();
    served.router.handle(request, reply);
    EXPECT_EQ(reply->status(), 200) << reply->body();
    return OrderedJson::parse(reply->body());
  };
  const OrderedJson all = list({});
  EXPECT_EQ(all["object"], "list");
  ASSERT_EQ(all["data"].size(), 3u);
  EXPECT_EQ(all["data"][0]["content"], "C");
  EXPECT_EQ(all["data"][2]["type"], "message");
  EXPECT_EQ(all["first_id"], all["data"][0]["id"]);
  EXPECT_EQ(all["has_more"], false);
  const OrderedJson first = list({{"order", "asc"}, {"limit", "2"}});
  EXPECT_EQ(first["data"][1]["id"], "msg_b");
  EXPECT_EQ(first["has_more"], true);
  EXPECT_EQ(list({{"order", "asc"}, {"after", "msg_b"}})["data"].size(), 1u);
  EXPECT_EQ(served.ask("GET", "/v1/responses/resp_0/input_items", "")->status(), 404);
}

TEST_F(ResponsesTest, WhatIsAbsentSaysSo) {
  const auto compact = served.post("/v1/responses/compact", R"({"input": "x"})");
  EXPECT_EQ(compact->status(), 404);
  EXPECT_NE(compact->body().find("does not compact conversations"), std::string::npos);
  EXPECT_EQ(served.post("/v1/responses/resp_0/cancel", "{}")->status(), 404);
}

TEST_F(ResponsesTest, TooLongIsToldInTheStream) {
  const std::string text(1 << 20, 'a');
  const auto reply = served.post("/v1/responses", R"({"stream": true, "input": ")" + text + "\"}");
  EXPECT_EQ(reply->status(), 200);
  const auto events = sse_events(reply->body());
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(events.front()["type"], "response.created");
  EXPECT_EQ(events.back()["type"], "response.failed");
  EXPECT_EQ(events.back()["response"]["error"]["code"], "context_length_exceeded");
  const auto whole = served.post("/v1/responses", R"({"input": ")" + text + "\"}");
  EXPECT_EQ(whole->status(), 400);
  EXPECT_EQ(OrderedJson::parse(whole->body())["error"]["code"], "context_length_exceeded");
}

TEST_F(ResponsesTest, RefusalsNameThePlace) {
  EXPECT_EQ(refusal(R"({"model": "gpt", "input": "x"})", 404),
            "model | the model 'gpt' is not served here: expected 'small' or 'alias'");
  EXPECT_EQ(refusal("{}"), "input | input: expected a string or a list of items, found nothing");
  EXPECT_EQ(refusal(R"({"input": []})"), "input | input: expected at least one item, found none");
  EXPECT_EQ(refusal(R"({"input": [{"role": "user", "content": "x"}, {"type": "function_call",
                                   "call_id": "c", "name": "f", "arguments": "{}"}]})"),
            "input[1] | input[1]: its tool calls have no results, which leaves nothing to answer");
  EXPECT_EQ(refusal(R"({"input": [{"type": "function_call_output", "call_id": "c",
                                   "output": "x"}]})"),
            "input[0] | input[0]: a tool result without a call: no "
            "assistant message before it");
  EXPECT_EQ(refusal(R"({"input": "x", "tools": [{"type": "mcp"}]})"),
            "tools[0].type | tools[0].type: expected 'function' (or 'web_search' and "
            "'image_generation', which are left out), found 'mcp'");
  EXPECT_EQ(refusal(R"({"input": "x", "tool_choice": "required"})"),
            "tool_choice | tool_choice: a tool must be called, but there are none");
  EXPECT_EQ(refusal(R"({"input": "x", "tool_choice": {"type": "mcp"}})"),
            "tool_choice.type | tool_choice.type: expected function or allowed_tools, found 'mcp'");
  EXPECT_EQ(refusal(R"({"input": "x", "background": true})"),
            "background | background: this server does not support it: ask with \"stream\": true, "
            "or wait");
  EXPECT_EQ(refusal(R"({"input": "x", "include": ["message.output_text.logprobs"]})"),
            "include[0] | include[0]: this server does not support it: use /v1/chat/completions");
  EXPECT_EQ(refusal(R"({"input": "x", "reasoning": {"effort": "huge"}})"),
            "reasoning.effort | reasoning.effort: expected none, minimal, low, medium, high, xhigh "
            "or max, found 'huge'");
  EXPECT_EQ(refusal(R"({"input": "x", "max_output_tokens": 0})"),
            "max_output_tokens | max_output_tokens: expected 1 to 1099511627776, found 0");
  EXPECT_EQ(refusal(R"({"input": "x", "metadata": {"a": 1}})"),
            "metadata.a | metadata.a: expected a string, found an integer");
  EXPECT_EQ(refusal(R"({"input": "x", "text": {"format": {"type": "xml"}}})"),
            "text.format.type | text.format.type: expected text, json_object or json_schema, found "
            "'xml'");
  EXPECT_TRUE(refusal(R"({"input": "x", "text": {"format": {"type": "json_schema", "name": "n",
      "schema": {"oneOf": []}}}})")
                  .starts_with("text.format | text.format.schema.oneOf: "));
  EXPECT_TRUE(refusal(R"({"input": "x", "tool_choice": "required", "tools": [{"type": "function",
      "name": "f", "parameters": {"type": "string"}}]})")
                  .starts_with("tools | "));
  EXPECT_TRUE(refusal("{").starts_with("- | the body: not valid JSON"));
  EXPECT_EQ(served.ask("GET", "/v1/responses/x/input_items", "")->status(), 404);
}

}  // namespace
}  // namespace fathom::server
