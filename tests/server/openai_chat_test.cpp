// /v1/chat/completions: exact answers from scripted tokens, as a whole and as a stream.
#include <algorithm>
#include <random>

#include "openai_fixture.h"
#include "server/api/openai_format.h"
#include "support/api_paths.h"

namespace fathom::server {
namespace {

using test::kChat;
using ::testing::HasSubstr;

constexpr const char* kCallsV31 =
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"city\": \"Oslo\"}"
    "<｜tool▁call▁end｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"city\": \"Bern\"}"
    "<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
constexpr const char* kCallsV32 =
    "\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"weather\">\n<｜DSML｜parameter "
    "name=\"city\" string=\"true\">Oslo</｜DSML｜parameter>\n</｜DSML｜invoke>\n<｜DSML｜invoke "
    "name=\"weather\">\n<｜DSML｜parameter name=\"city\" "
    "string=\"true\">Bern</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>";
constexpr const char* kTools =
    R"("tools": [{"type": "function", "function": {"name": "weather", "description": "Now",
       "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}])";

std::string body_of(const std::string& more) {
  return R"({"messages": [{"role": "user", "content": "Hello!"}])" +
         (more.empty() ? std::string() : ", " + more) + "}";
}

// What a client that joins the deltas of a stream has for one choice.
struct Joined {
  OrderedJson message = {{"role", nullptr}, {"content", nullptr}};
  OrderedJson logprobs = OrderedJson::array();
  std::string finish_reason;
};

Joined join(const std::vector<OrderedJson>& chunks, int choice = 0) {
  Joined joined;
  std::string content, reasoning;
  OrderedJson calls;
  for (const OrderedJson& chunk : chunks) {
    for (const OrderedJson& c : chunk["choices"]) {
      if (c["index"] != choice) continue;
      EXPECT_TRUE(joined.finish_reason.empty()) << "a chunk behind the last: " << chunk;
      const OrderedJson& delta = c["delta"];
      if (delta.contains("role")) joined.message["role"] = delta["role"];
      if (delta.contains("content") && !delta["content"].is_null())
        content += delta["content"].get<std::string>();
      if (delta.contains("reasoning_content"))
        reasoning += delta["reasoning_content"].get<std::string>();
      if (delta.contains("tool_calls")) {
        for (OrderedJson call : delta["tool_calls"]) {
          const auto index = call["index"].get<size_t>();
          call.erase("index");
          if (index + 1 == calls.size()) {  // more of the arguments
            EXPECT_FALSE(call.contains("id") || call["function"].contains("name"));
            calls.back()["function"]["arguments"].get_ref<std::string&>() +=
                call["function"]["arguments"].get<std::string>();
            continue;
          }
          EXPECT_EQ(index, calls.size());
          calls.push_back(call);
        }
      }
      if (!c["logprobs"].is_null())
        for (const OrderedJson& token : c["logprobs"]["content"]) joined.logprobs.push_back(token);
      if (!c["finish_reason"].is_null()) joined.finish_reason = c["finish_reason"];
    }
  }
  const bool silent = content.empty() && !calls.is_null();
  joined.message["content"] = silent ? OrderedJson(nullptr) : OrderedJson(content);
  joined.message["refusal"] = nullptr;
  if (!reasoning.empty()) joined.message["reasoning_content"] = reasoning;
  if (!calls.is_null()) joined.message["tool_calls"] = calls;
  return joined;
}

// Ids of calls differ from request to request.
OrderedJson without_call_ids(OrderedJson message) {
  if (!message.contains("tool_calls")) return message;
  for (OrderedJson& call : message["tool_calls"]) {
    EXPECT_THAT(call["id"].get<std::string>(), ::testing::MatchesRegex("call_[0-9a-f]+"));
    call["id"] = "call";
  }
  return message;
}

TEST_F(OpenAiTest, WholeAnswer) {
  answer_with("Hello! How can I help?");
  const auto n = static_cast<int>(tokenizer().encode("Hello! How can I help?").size());
  OrderedJson want = OrderedJson::parse(R"({
    "id": "ID", "object": "chat.completion", "created": 0, "model": "fathom-small",
    "system_fingerprint": "fp_test",
    "choices": [{"index": 0,
      "message": {"role": "assistant", "content": "Hello! How can I help?", "refusal": null},
      "logprobs": null, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0,
      "prompt_tokens_details": {"cached_tokens": 0},
      "completion_tokens_details": {"reasoning_tokens": 0}}})");
  const OrderedJson got = answer(kChat, body_of(R"("temperature": 0)"));
  const auto prompt = static_cast<int>(requests.at(0).ids.size());
  want["usage"]["prompt_tokens"] = prompt;
  want["usage"]["completion_tokens"] = n + 1;  // the end of sentence is a token too
  want["usage"]["total_tokens"] = prompt + n + 1;
  EXPECT_EQ(got.dump(1), want.dump(1));
  EXPECT_EQ(tokenizer().decode(requests.at(0).ids),
            "<｜begin▁of▁sentence｜><｜User｜>Hello!<｜Assistant｜></think>");
}

TEST_F(OpenAiByHandTest, StreamedAnswerByteForByte) {
  answer_with("Hello!");
  const std::vector<int32_t> ids = tokenizer().encode("Hello!");
  const auto reply =
      start("POST", kChat, body_of(R"("stream": true, "stream_options": {"include_usage": true})"));
  for (size_t i = 0; i < ids.size() + 1; ++i) {  // one event a token
    const size_t before = reply->writes().size();
    engine.advance();
    while (reply->writes().size() == before && !reply->complete()) reply->run();
  }
  ASSERT_TRUE(reply->run_until_complete());
  std::string body = reply->body();
  const OrderedJson first = fathom::test::sse_events(reply->writes().at(0)).at(0);
  const std::string head =
      "data: {\"id\":" + first["id"].dump() +
      ",\"object\":\"chat.completion.chunk\",\"created\":" + first["created"].dump() +
      ",\"model\":\"fathom-small\",\"system_fingerprint\":\"fp_test\","
      "\"choices\":[";
  const auto chunk = [&](const std::string& delta, const std::string& finish) {
    return head + "{\"index\":0,\"delta\":" + delta +
           ",\"logprobs\":null,\"finish_reason\":" + finish + "}],\"usage\":null}\n\n";
  };
  std::string want = chunk(R"({"role":"assistant","content":""})", "null");
  for (const int32_t id : ids)
    want += chunk("{\"content\":" + json_text(tokenizer().token_bytes(id)) + "}", "null");
  want += chunk("{}", "\"stop\"");
  const auto prompt = requests.at(0).ids.size();
  want += head + fmt::format(
                     "],\"usage\":{{\"prompt_tokens\":{},\"completion_tokens\":{},"
                     "\"total_tokens\":{},\"prompt_tokens_details\":{{\"cached_tokens\":0}},"
                     "\"completion_tokens_details\":{{\"reasoning_tokens\":0}}}}}}\n\n",
                     prompt, ids.size() + 1, prompt + ids.size() + 1);
  want += "data: [DONE]\n\n";
  EXPECT_EQ(body, want);
}

TEST_F(OpenAiTest, ReasoningAndToolCalls) {
  answer_with(std::string("I need the weather.</think>Looking it up.") + kCallsV31);
  const std::string request = body_of(std::string(kTools) + R"(, "reasoning_effort": "high")");
  const OrderedJson got = answer(kChat, request);
  const OrderedJson want = OrderedJson::parse(R"({"role": "assistant",
    "content": "Looking it up.", "refusal": null, "reasoning_content": "I need the weather.",
    "tool_calls": [
      {"id": "call", "type": "function",
       "function": {"name": "weather", "arguments": "{\"city\": \"Oslo\"}"}},
      {"id": "call", "type": "function",
       "function": {"name": "weather", "arguments": "{\"city\": \"Bern\"}"}}]})");
  EXPECT_EQ(without_call_ids(got["choices"][0]["message"]).dump(1), want.dump(1));
  EXPECT_EQ(got["choices"][0]["finish_reason"], "tool_calls");
  const auto& calls = got["choices"][0]["message"]["tool_calls"];
  EXPECT_NE(calls[0]["id"], calls[1]["id"]);
  const auto reasoning = tokenizer().encode("I need the weather.</think>").size();
  EXPECT_EQ(got["usage"]["completion_tokens_details"]["reasoning_tokens"], reasoning);
  const std::string prompt = tokenizer().decode(requests.at(0).ids);
  EXPECT_THAT(prompt, HasSubstr("### weather"));
  EXPECT_TRUE(prompt.ends_with("<｜Assistant｜><think>")) << prompt;

  const Joined joined = join(stream(
      kChat, body_of(std::string(kTools) + R"(, "reasoning_effort": "low", "stream": true)")));
  EXPECT_EQ(without_call_ids(joined.message).dump(1), want.dump(1));
  EXPECT_EQ(joined.finish_reason, "tool_calls");
}

// This encoding reads the text of arguments: what it cannot is refused, with the client's place.
TEST_F(OpenAiV32Test, ArgumentsThatCannotBeReadAreRefused) {
  const auto body = [](const std::string& arguments) {
    const OrderedJson call = {{"id", "c"}, {"function", {{"name", "f"}, {"arguments", arguments}}}};
    const OrderedJson tool = {{"type", "function"}, {"function", {{"name", "f"}}}};
    OrderedJson b;
    b["messages"] = {{{"role", "user"}, {"content", "Q"}},
                     {{"role", "assistant"}, {"tool_calls", OrderedJson::array({call})}},
                     {{"role", "tool"}, {"tool_call_id", "c"}, {"content", "r"}}};
    b["tools"] = OrderedJson::array({tool});  // a system message goes in front
    return b.dump();
  };
  const std::string deep = "{\"a\":" + std::string(200'000, '[') + std::string(200'000, ']') + "}";
  for (const char* path : {kChat, "/tokenize"}) {
    EXPECT_EQ(refusal(path, body(deep))["param"], "messages[1].tool_calls[0].function.arguments");
    EXPECT_EQ(refusal(path, body("[1]"))["param"], "messages[1]");
  }
  const std::string long_text(1 << 20, 'x');
  EXPECT_LT(refusal(kChat, body(long_text))["message"].get<std::string>().size(), 400u);
  answer_with("ok");
  answer(kChat, body(" "));
}

TEST_F(OpenAiV32Test, ToolCallsInTheOtherEncoding) {
  answer_with(std::string("I think.</think>Looking it up.") + kCallsV32);
  const OrderedJson got = answer(
      kChat, body_of(std::string(kTools) + R"(, "chat_template_kwargs": {"thinking": true})"));
  const OrderedJson& message = got["choices"][0]["message"];
  EXPECT_EQ(message["content"], "Looking it up.");
  EXPECT_EQ(message["reasoning_content"], "I think.");
  ASSERT_EQ(message["tool_calls"].size(), 2u);
  EXPECT_EQ(message["tool_calls"][1]["function"]["arguments"], "{\"city\": \"Bern\"}");
  const Joined joined = join(
      stream(kChat, body_of(std::string(kTools) +
                            R"(, "chat_template_kwargs": {"thinking": true}, "stream": true)")));
  EXPECT_EQ(without_call_ids(joined.message).dump(1), without_call_ids(message).dump(1));
}

TEST_F(OpenAiTest, ParallelToolCallsSwitchedOffEndsBehindTheFirst) {
  answer_with(std::string(kCallsV31) + "never seen");
  const OrderedJson got =
      answer(kChat, body_of(std::string(kTools) + R"(, "parallel_tool_calls": false)"));
  const OrderedJson& message = got["choices"][0]["message"];
  ASSERT_EQ(message["tool_calls"].size(), 1u);
  EXPECT_TRUE(message["content"].is_null());
  EXPECT_EQ(got["choices"][0]["finish_reason"], "tool_calls");
}

TEST_F(OpenAiTest, ToolChoiceNoneKeepsToolsOutOfThePrompt) {
  answer_with("No.");
  answer(kChat, body_of(std::string(kTools) + R"(, "tool_choice": "none")"));
  EXPECT_EQ(tokenizer().decode(requests.at(0).ids).find("weather"), std::string::npos);
  EXPECT_EQ(requests.at(0).constraint, nullptr);
}

TEST_F(OpenAiTest, StopTexts) {
  answer_with("One two three four");
  OrderedJson got = answer(kChat, body_of(R"("stop": "thr")"));
  EXPECT_EQ(got["choices"][0]["message"]["content"], "One two ");
  EXPECT_EQ(got["choices"][0]["finish_reason"], "stop");
  got = answer(kChat, body_of(R"("stop": ["never", " two th", "four"])"));
  EXPECT_EQ(got["choices"][0]["message"]["content"], "One");
  const auto chunks = stream(kChat, body_of(R"("stop": ["o thr"], "stream": true)"));
  EXPECT_EQ(join(chunks).message["content"], "One tw");
  EXPECT_TRUE(engine.wait_idle());

  // Inside characters of several tokens.
  answer_with("Tea ☕🫖 for two 🍵🍰");
  got = answer(kChat, body_of(R"("stop": "🍵")"));
  EXPECT_EQ(got["choices"][0]["message"]["content"], "Tea ☕🫖 for two ");
  got = answer(kChat, body_of(R"("stop": "☕🫖 f")"));
  EXPECT_EQ(got["choices"][0]["message"]["content"], "Tea ");
}

// A stop text is looked for in what the client reads as the answer.
TEST_F(OpenAiTest, StopTextsInsideReasoningAndToolTagsAreNone) {
  answer_with(std::string("city first.</think>In the ci.") + kCallsV31);
  const OrderedJson got = answer(
      kChat,
      body_of(std::string(kTools) +
              R"(, "thinking": {"type": "enabled"}, "stop": ["city", "calls", "Oslo", "<｜"])"));
  const OrderedJson& message = got["choices"][0]["message"];
  EXPECT_EQ(message["reasoning_content"], "city first.");
  EXPECT_EQ(message["content"], "In the ci.");
  EXPECT_EQ(message["tool_calls"].size(), 2u);
  // Markers that begin no call are left out: private markup is never content.
  answer_with("a <｜tool▁calls▁begin｜>Oslo b");
  EXPECT_EQ(answer(kChat, body_of(R"("stop": "Oslo")"))["choices"][0]["message"]["content"], "a ");
}

TEST_F(OpenAiTest, MinTokensGoBeforeStopTexts) {
  answer_with("One two three two four");
  const OrderedJson got =
      answer(kChat, body_of(R"("stop": "two", "min_tokens": )" +
                            std::to_string(tokenizer().encode("One two").size())));
  EXPECT_EQ(got["choices"][0]["message"]["content"], "One two three ");
}

TEST_F(OpenAiTest, LengthAndTheContext) {
  answer_with("One two three four");
  OrderedJson got = answer(kChat, body_of(R"("max_tokens": 2)"));
  EXPECT_EQ(got["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(got["usage"]["completion_tokens"], 2);
  answer(kChat, body_of(R"("max_tokens": 7, "max_completion_tokens": 3)"));
  EXPECT_EQ(requests.at(1).max_new_tokens, 3);
  answer(kChat, body_of(""));
  const auto prompt = static_cast<int64_t>(requests.at(2).ids.size());
  EXPECT_EQ(requests.at(2).max_new_tokens, 4096 - prompt);
  answer(kChat, body_of(R"("max_tokens": 4096)"));
  EXPECT_EQ(requests.at(3).max_new_tokens, 4096 - prompt);
  std::string words;
  for (int i = 0; i < 5000; ++i) words += "a b ";
  // Both a prompt that is counted and one that need not be to know.
  for (const std::string& text : {words, std::string(1 << 20, 'a')}) {
    const OrderedJson too_long =
        refusal(kChat, R"({"messages": [{"role": "user", "content": ")" + text + "\"}]}");
    EXPECT_THAT(too_long["message"].get<std::string>(),
                ::testing::StartsWith("This model's maximum context length is 4096 tokens, but the "
                                      "prompt has "));
    EXPECT_EQ(too_long["code"], "context_length_exceeded");
    EXPECT_EQ(too_long["param"], "messages");
    EXPECT_EQ(refusal("/v1/completions", R"({"prompt": ")" + text + "\"}")["param"], "prompt");
  }
}

TEST_F(OpenAiTest, IntegersMayBeWrittenAsFloats) {
  answer_with("One two three four");
  answer(kChat, body_of(R"("max_tokens": 2.0, "seed": 7e0)"));
  EXPECT_EQ(requests.at(0).max_new_tokens, 2);
  EXPECT_EQ(requests.at(0).sampling.seed, 7u);
  for (const char* wrong : {"2.5", "1e300", "0.0"})
    EXPECT_EQ(refusal(kChat, body_of(R"("max_tokens": )" + std::string(wrong)))["param"],
              "max_tokens");
}

TEST_F(OpenAiTest, TheMostEffortIsReasoning) {
  answer_with("R</think>ok");
  answer(kChat, body_of(R"("reasoning_effort": "max")"));
  EXPECT_TRUE(tokenizer().decode(requests.at(0).ids).ends_with("<think>"));
}

TEST_F(OpenAiTest, AllowedToolsAreAllThatTheModelHearsOf) {
  answer_with("ok");
  const auto choice = [](const std::string& mode) {
    return body_of(R"("max_tokens": 20, "tools": [{"type": "function", "function": {"name": "a"}},
        {"type": "function", "function": {"name": "b", "parameters": {"type": "object",
        "properties": {}, "additionalProperties": false}}}],
        "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": ")" +
                   mode + R"(", "tools": [{"type": "function", "function": {"name": "b"}}]}})");
  };
  for (const char* mode : {"auto", "required"}) {
    const OrderedJson got = answer(kChat, choice(mode));
    const std::string prompt = tokenizer().decode(requests.back().ids);
    EXPECT_EQ(prompt.find("### a"), std::string::npos);
    EXPECT_NE(prompt.find("### b"), std::string::npos);
    EXPECT_EQ(requests.back().constraint != nullptr, std::string(mode) == "required");
  }
}

TEST_F(OpenAiTest, ParametersReachTheEngine) {
  answer_with("ok");
  answer(kChat, body_of(R"("temperature": 0.5, "top_p": 0.25, "top_k": 7, "min_p": 0.125,
      "presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.5, "seed": -1,
      "logit_bias": {"17": 5, "3": -100}, "min_tokens": 1, "priority": 3, "user": "u",
      "metadata": {"a": "b"}, "logprobs": true, "top_logprobs": 4, "stop_token_ids": [9],
      "unheard_of": [1, 2])"));
  const Request& r = requests.at(0);
  EXPECT_EQ(r.sampling.temperature, 0.5f);
  EXPECT_EQ(r.sampling.top_p, 0.25f);
  EXPECT_EQ(r.sampling.top_k, 7);
  EXPECT_EQ(r.sampling.min_p, 0.125f);
  EXPECT_EQ(r.sampling.seed, ~uint64_t{0});
  EXPECT_EQ(r.rules.presence_penalty, 1.0f);
  EXPECT_EQ(r.rules.frequency_penalty, -1.0f);
  EXPECT_EQ(r.rules.repetition_penalty, 1.5f);
  EXPECT_EQ(r.rules.bias, (std::vector<std::pair<int32_t, float>>{{17, 5.0f}, {3, -100.0f}}));
  EXPECT_EQ(r.rules.min_new_tokens, 1);
  EXPECT_EQ(r.priority, 3);
  EXPECT_EQ(r.logprobs, 4);
  EXPECT_EQ(r.stop_ids, (std::vector<int32_t>{eos(), 9}));
  answer(kChat, body_of(R"("ignore_eos": true, "max_tokens": 3, "top_p": 0, "top_k": -1)"));
  EXPECT_TRUE(requests.at(1).stop_ids.empty());
  EXPECT_GT(requests.at(1).sampling.top_p, 0.0f);
  EXPECT_EQ(requests.at(1).sampling.top_k, 0);
}

TEST_F(OpenAiTest, SeveralChoices) {
  answer_with("One two three");
  const OrderedJson got = answer(kChat, body_of(R"("n": 3, "seed": 40)"));
  ASSERT_EQ(got["choices"].size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(got["choices"][i]["index"], i);
    EXPECT_EQ(got["choices"][i]["message"]["content"], "One two three");
    EXPECT_EQ(requests.at(i).sampling.seed, 40 + i);
    EXPECT_EQ(requests.at(i).ids, requests.at(0).ids);
  }
  const auto each = static_cast<int>(tokenizer().encode("One two three").size()) + 1;
  EXPECT_EQ(got["usage"]["completion_tokens"], 3 * each);
  EXPECT_EQ(got["usage"]["prompt_tokens"], requests.at(0).ids.size());
  const auto chunks = stream(kChat, body_of(R"("n": 2, "stream": true)"));
  for (int i = 0; i < 2; ++i) EXPECT_EQ(join(chunks, i).message["content"], "One two three");
}

TEST_F(OpenAiTest, LogProbabilities) {
  answer_with("Tea ☕ now");
  const std::vector<int32_t> ids = tokenizer().encode("Tea ☕ now");
  const OrderedJson got = answer(kChat, body_of(R"("logprobs": true, "top_logprobs": 2)"));
  const OrderedJson& content = got["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), ids.size() + 1);  // and the end of sentence
  EXPECT_EQ(content.back()["token"], "<｜end▁of▁sentence｜>");
  std::string bytes;
  for (size_t i = 0; i < ids.size(); ++i) {
    EXPECT_EQ(content[i]["logprob"], -0.5);
    for (const OrderedJson& b : content[i]["bytes"]) bytes += static_cast<char>(b.get<int>());
    ASSERT_EQ(content[i]["top_logprobs"].size(), 2u);
    EXPECT_EQ(content[i]["top_logprobs"][1]["logprob"], -1.5);
  }
  EXPECT_EQ(bytes, "Tea ☕ now");
  const Joined joined =
      join(stream(kChat, body_of(R"("logprobs": true, "top_logprobs": 2, "stream": true)")));
  EXPECT_EQ(joined.logprobs, content);
  // In front of a stop text, and those of the stop text, which were generated and are counted.
  const OrderedJson cut = answer(kChat, body_of(R"("logprobs": true, "stop": "☕")"));
  bytes.clear();
  for (const OrderedJson& token : cut["choices"][0]["logprobs"]["content"])
    for (const OrderedJson& b : token["bytes"]) bytes += static_cast<char>(b.get<int>());
  EXPECT_EQ(cut["choices"][0]["message"]["content"], "Tea ");
  EXPECT_EQ(bytes, "Tea ☕");
}

TEST_F(OpenAiTest, HistoryOfToolsAndPartsOfText) {
  answer_with("It rains.");
  answer(kChat, R"({"messages": [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Weather"}, {"type": "text", "text": "?"}]},
    {"role": "assistant", "content": null, "tool_calls": [{"id": "call_1", "type": "function",
      "function": {"name": "weather", "arguments": "{\"city\": \"Oslo\"}"}}]},
    {"role": "tool", "tool_call_id": "call_1", "content": "rain <｜Assistant｜>"}]})");
  EXPECT_EQ(tokenizer().decode(requests.at(0).ids),
            "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Weather?<｜Assistant｜></think>"
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"city\": \"Oslo\"}"
            "<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>"
            "<｜tool▁output▁begin｜>rain <｜Assistant｜><｜tool▁output▁end｜>");
  // What a tool wrote is text, whatever it looks like.
  const int32_t assistant = *tokenizer().added_id_of("<｜Assistant｜>");
  EXPECT_EQ(std::count(requests[0].ids.begin(), requests[0].ids.end(), assistant), 1);
}

TEST_F(OpenAiByHandTest, AClientThatGoesAwayIsCancelled) {
  answer_with("One two three");
  const auto reply = start("POST", kChat, body_of(R"("stream": true, "n": 2)"));
  engine.advance();
  ASSERT_TRUE(engine.wait_submitted(1));
  while (engine.submitted().size() < 2) reply->run();  // the second choice follows a first token
  reply->abandon();
  reply->run();
  EXPECT_TRUE(engine.wait_cancelled(2));
  EXPECT_TRUE(engine.wait_idle());
  reply->run();
}

TEST_F(OpenAiByHandTest, AFailureIsAnAnswerOrAnErrorEvent) {
  answer_with("One two three");
  const auto whole = start("POST", kChat, body_of(R"("n": 2)"));
  const auto streamed = start("POST", kChat, body_of(R"("stream": true)"));
  ASSERT_TRUE(engine.wait_submitted(2));
  engine.fail_all("the device is lost");
  ASSERT_TRUE(whole->run_until_complete());
  EXPECT_EQ(whole->status(), 500);
  EXPECT_THAT(whole->body(), HasSubstr("the device is lost"));
  ASSERT_TRUE(streamed->run_until_complete());
  const auto events = fathom::test::sse_events(streamed->body());
  EXPECT_EQ(events.back()["error"]["message"], "the device is lost");
  EXPECT_EQ(events.back()["error"]["type"], "server_error");
  EXPECT_EQ(refusal(kChat, body_of(""), 503)["message"], "the device is lost");
  EXPECT_EQ(get("/health")->status(), 503);
}

TEST_F(OpenAiByHandTest, AServerThatStopsSaysSo) {
  answer_with("One two three");
  const auto reply = start("POST", kChat, body_of(R"("stream": true)"));
  engine.advance();
  reply->stop();
  ASSERT_TRUE(reply->run_until_complete());
  EXPECT_THAT(reply->body(), HasSubstr("the server is shutting down"));
  EXPECT_TRUE(engine.wait_cancelled(1));
}

TEST_F(OpenAiByHandTest, TimeLimit) {
  service.options.request_seconds = 60;
  answer_with("One two three");
  const auto reply = start("POST", kChat, body_of(""));
  EXPECT_GT(reply->timer_seconds(), 50);
  EXPECT_LE(reply->timer_seconds(), 60);
  reply->expire();
  ASSERT_TRUE(reply->run_until_complete());
  EXPECT_EQ(reply->status(), 504);
  EXPECT_TRUE(engine.wait_cancelled(1));
}

TEST_F(OpenAiTest, Models) {
  EXPECT_EQ(refusal(kChat, body_of(R"("model": "gpt-4")"), 404)["code"], "model_not_found");
  answer_with("ok");
  EXPECT_EQ(answer(kChat, body_of(R"("model": "other-name")"))["model"], "fathom-small");
  const OrderedJson list = OrderedJson::parse(get("/v1/models")->body());
  EXPECT_EQ(list["object"], "list");
  ASSERT_EQ(list["data"].size(), 2u);
  EXPECT_EQ(list["data"][0]["id"], "fathom-small");
  EXPECT_EQ(list["data"][0]["object"], "model");
  EXPECT_EQ(list["data"][0]["created"], 1700000000);
  EXPECT_EQ(list["data"][0]["max_model_len"], 4096);
  EXPECT_EQ(OrderedJson::parse(get("/v1/models/other-name")->body())["id"], "other-name");
  for (const char* unknown : {"/v1/models/gpt-4", "/v1/models/org/gpt-4"}) {
    const auto refused = get(unknown);
    EXPECT_EQ(refused->status(), 404);
    EXPECT_EQ(OrderedJson::parse(refused->body())["error"]["code"], "model_not_found");
  }
}

// Whatever the cut into tokens and events, a stream joined is the whole message.
TEST_F(OpenAiTest, AStreamJoinedIsTheWholeMessage) {
  std::mt19937 random(3);
  const auto pick = [&](size_t n) {
    return std::uniform_int_distribution<size_t>(0, n - 1)(random);
  };
  const std::vector<std::string> parts = {
      "Hello", " world",  "\n\n", "☕",  "🫖", "</think>", kCallsV31, "<｜tool▁calls▁begin｜>",
      "<｜",   "<think>", "END",  "EN", "<",    "｜",       "é",       " "};
  for (int round = 0; round < 60; ++round) {
    std::vector<int32_t> ids;
    for (size_t n = pick(12); n > 0; --n) {
      // As tokens of the vocabulary, or byte by byte.
      const std::string& part = parts[pick(parts.size())];
      if (pick(3) == 0)
        for (const int32_t id : tokenizer().encode_plain(part)) ids.push_back(id);
      else
        for (const int32_t id : tokenizer().encode(part)) ids.push_back(id);
    }
    answer_with_ids(ids);
    const std::string thinking = pick(2) ? "true" : "false";
    const std::string more =
        R"("stop": ["END", "🫖"], "logprobs": true, "enable_thinking": )" + thinking;
    const OrderedJson whole = answer(kChat, body_of(more));
    const Joined joined = join(stream(kChat, body_of(more + R"(, "stream": true)")));
    ASSERT_EQ(without_call_ids(joined.message).dump(),
              without_call_ids(whole["choices"][0]["message"]).dump());
    ASSERT_EQ(OrderedJson(joined.finish_reason), whole["choices"][0]["finish_reason"]);
    ASSERT_EQ(joined.logprobs, whole["choices"][0]["logprobs"]["content"]);
  }
}

}  // namespace
}  // namespace fathom::server
