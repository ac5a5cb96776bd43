// What /v1/chat/completions refuses, and how it says so.
#include "openai_fixture.h"
#include "server/api/json_request.h"
#include "support/api_paths.h"

namespace fathom::server {
namespace {

using test::kChat;
using ::testing::HasSubstr;

struct Case {
  std::string body;
  const char* message;
  const char* param = nullptr;  // null: not looked at
};

// The members behind a message that is in order.
std::string with(const std::string& more) {
  return R"({"messages": [{"role": "user", "content": "Hi"}], )" + more + "}";
}
std::string messages(const std::string& list) { return R"({"messages": [)" + list + "]}"; }

class Refusals : public OpenAiTest {
 protected:
  void expect(const std::vector<Case>& cases) {
    for (const Case& c : cases) {
      const OrderedJson error = refusal(kChat, c.body);
      EXPECT_EQ(error["type"], "invalid_request_error");
      EXPECT_THAT(error["message"].get<std::string>(), HasSubstr(c.message)) << c.body;
      if (c.param) {
        EXPECT_EQ(error["param"], c.param) << c.body;
      }
    }
    EXPECT_TRUE(engine.submitted().empty());
  }
};

TEST_F(Refusals, BodiesThatAreNoRequest) {
  const std::string deep(100, '[');
  std::string wide = R"({"a": {)";
  for (int64_t i = 0; i <= kMaxJsonMembers; ++i)
    wide += fmt::format("{}\"k{}\":0", i ? "," : "", i);
  std::string many = R"({"a": [)";
  for (int64_t i = 0; i <= kMaxJsonValues; ++i) many += "0,";
  expect({{"", "the body is empty: expected a JSON object"},
          {"{", "the body: not valid JSON: it ends too early, at byte 1"},
          {"[]", "the body: expected a JSON object, found an array"},
          {"null", "the body: expected a JSON object, found a null"},
          {"\"x\"", "found a string"},
          {"{\"a\": \"\xFF\"}", "the body: invalid UTF-8 at byte 7 (0xFF)"},
          {"{\"a\": \"\xED\xA0\x80\"}", "the body: invalid UTF-8 at byte 7"},
          {R"({"a": "\ud800"})", "the body: not valid JSON: at byte 13: in the string"},
          {R"({"a": 1e999})", "not valid JSON: at byte 6: the number 1e999 is out of range"},
          {"{} {}", "not valid JSON: at byte 3: { follows after its end"},
          {"{\"messages\": " + deep, "the body: nested deeper than 64 levels at byte"},
          {wide + "}}", "the body: an object of more than 2048 members at byte"},
          {many + "0]}", "the body: more than 2000000 values at byte"},
          {std::string(1 << 20, '{'), "nested deeper"},
          {std::string("{\"a\": \"x\0y\"}", 12), "not valid JSON"}});
  // Brackets inside strings are text.
  answer_with("ok");
  answer(kChat, messages(R"({"role": "user", "content": ")" + deep + R"(\"[["})"));
}

TEST_F(Refusals, Messages) {
  expect({
      {"{}", "messages: expected an array, found nothing", "messages"},
      {R"({"messages": {}})", "messages: expected an array, found an object", "messages"},
      {R"({"messages": []})", "messages: expected at least one message", "messages"},
      {messages("5"), "messages[0]: expected an object, found an integer", "messages[0]"},
      {messages(R"({"content": "x"})"), "messages[0].role: expected a string, found nothing"},
      {messages(R"({"role": "king", "content": "x"})"),
       "messages[0].role: expected system, developer, user, assistant or tool, found 'king'"},
      {messages(R"({"role": "user"})"), "messages[0].content: expected"},
      {messages(R"({"role": "user", "content": 7})"),
       "messages[0].content: expected a string or a list of text parts, found an integer",
       "messages[0].content"},
      {messages(R"({"role": "user", "content": [{"type": "image_url", "image_url": {}}]})"),
       "messages[0].content[0].type: expected 'text', found 'image_url'"},
      {messages(R"({"role": "user", "content": "x"}, {"role": "tool", "content": "y"})"),
       "a tool result without a call"},
      {R"({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
           "continue_final_message": false})",
       "continue_final_message: the last message is the assistant's", "continue_final_message"},
      {messages(R"({"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [
                   {"id": "a", "function": {"name": "f", "arguments": "{}"}}]})"),
       "messages[1]: its tool calls have no results, which leaves nothing to answer",
       "messages[1]"},
      {R"({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "{"}],
           "response_format": {"type": "json_object"}})",
       "messages[1]: an answer that the client has begun cannot be held to a form", "messages[1]"},
      {messages(R"({"role": "user", "content": "x", "tool_calls": [{"id": "a"}]})"),
       "messages[0].tool_calls: only assistant messages have it"},
      {messages(R"({"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f",
                   "arguments": 5}}]}, {"role": "tool", "content": "y"})"),
       "messages[0].tool_calls[0].function.arguments: expected a JSON object or its text"},
      {messages(R"({"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f",
                   "arguments": "{\"a\":)" +
                std::string(200'000, '[') + std::string(200'000, ']') +
                R"(}"}}]}, {"role": "tool", "content": "y"})"),
       "nested deeper than 64 levels", "messages[0].tool_calls[0].function.arguments"},
  });
}

TEST_F(Refusals, Parameters) {
  expect({
      {with(R"("model": 5)"), "model: expected a string, found an integer", "model"},
      {with(R"("temperature": "hot")"), "temperature: expected a number, found a string"},
      {with(R"("temperature": -1)"), "temperature: expected 0 to 100, found -1", "temperature"},
      {with(R"("temperature": true)"), "temperature: expected a number, found a boolean"},
      {with(R"("top_p": 1.5)"), "top_p: expected 0 to 1, found 1.5"},
      {with(R"("min_p": 2)"), "min_p: expected 0 to 1, found 2"},
      {with(R"("top_k": -2)"), "top_k: expected -1 to"},
      {with(R"("top_k": 1.5)"), "top_k: expected an integer, found a number"},
      {with(R"("presence_penalty": 3)"), "presence_penalty: expected -2 to 2, found 3"},
      {with(R"("frequency_penalty": -3)"), "frequency_penalty: expected -2 to 2, found -3"},
      {with(R"("repetition_penalty": 0)"), "repetition_penalty: expected 0.01 to 100, found 0"},
      {with(R"("logit_bias": [1])"), "logit_bias: expected an object, found an array"},
      {with(R"("logit_bias": {"x": 1})"), "logit_bias: expected token ids from 0 to"},
      {with(R"("logit_bias": {"99999999": 1})"), "as keys, found '99999999'"},
      {with(R"("logit_bias": {"1": 101})"), "logit_bias.1: expected -100 to 100, found 101"},
      {with(R"("seed": 1.5)"), "seed: expected an integer, found a number"},
      {with(R"("seed": 99999999999999999999)"), "seed: "},
      {with(R"("stop": 5)"), "stop: expected a string or an array of strings"},
      {with(R"("stop": ["a", ""])"), "stop[1]: expected a text of 1 to 4096 bytes, found 0"},
      {with(R"("stop": ["a", null])"), "stop[1]: expected a string, found nothing"},
      {with(R"("stop": ["1","2","3","4","5","6","7","8","9","a","b","c","d","e","f","g","h"])"),
       "stop: at most 16 stop texts are accepted, found 17", "stop"},
      {with(R"("max_tokens": 0)"), "max_tokens: expected 1 to"},
      {with(R"("max_tokens": -5)"), "max_tokens: expected 1 to"},
      {with(R"("max_completion_tokens": 18446744073709551615)"),
       "max_completion_tokens: expected 1 to"},
      {with(R"("n": 0)"), "n: expected 1 to 128, found 0", "n"},
      {with(R"("n": 129)"), "n: expected 1 to 128, found 129"},
      {with(R"("logprobs": 3)"), "logprobs: expected true or false, found an integer"},
      {with(R"("top_logprobs": 3)"), "top_logprobs: only with \"logprobs\": true"},
      {with(R"("logprobs": true, "top_logprobs": 21)"), "top_logprobs: expected 0 to 20, found 21"},
      {with(R"("min_tokens": -1)"), "min_tokens: expected 0 to"},
      {with(R"("ignore_eos": "yes")"), "ignore_eos: expected true or false, found a string"},
      {with(R"("stream": 1)"), "stream: expected true or false, found an integer"},
      {with(R"("stream_options": {"include_usage": true})"), "stream_options: only for requests"},
      {with(R"("stream": true, "stream_options": 5)"), "stream_options: expected an object"},
      {with(R"("reasoning_effort": "extreme")"), "reasoning_effort: expected none"},
      {with(R"("chat_template_kwargs": {"thinking": "yes"})"),
       "chat_template_kwargs.thinking: expected true or false"},
      {with(R"("thinking": {"type": "maybe"})"), "thinking.type: expected 'enabled'"},
      {with(R"("stop_token_ids": [-1])"), "stop_token_ids[0]: expected 0 to"},
  });
}

TEST_F(Refusals, WhatIsKnownAndNotSupported) {
  expect({
      {with(R"("functions": [{"name": "f"}], "tools": [])"),
       "functions: expected nothing beside tools", "functions"},
      {with(R"("modalities": ["text", "audio"])"), "modalities: this server does not support it"},
      {with(R"("audio": {"voice": "x"})"), "audio: this server does not support it"},
      {with(R"("best_of": 2)"), "best_of: this server does not support it: use n"},
      {with(R"("guided_regex": "a+")"), "guided_regex: this server does not support it"},
      {with(R"("add_generation_prompt": false)"), "add_generation_prompt: "},
      {with(R"("continue_final_message": true)"), "continue_final_message: "},
      {with(R"("include_stop_str_in_output": true)"), "include_stop_str_in_output: "},
  });
  // What asks for nothing is let pass.
  answer_with("ok");
  answer(kChat, with(R"("functions": [], "audio": null, "modalities": ["text"], "best_of": 1,
      "echo": false, "chat_template": "", "stream_options": null, "tools": [], "stop": null,
      "tool_choice": "auto", "response_format": {"type": "text"}, "logit_bias": null)"));
}

TEST_F(Refusals, ToolsAndForms) {
  const std::string tool =
      R"("tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}], )";
  expect({
      {with(R"("tools": 5)"), "tools: expected an array, found an integer"},
      {with(R"("tools": [{"type": "web_search"}])"),
       "tools[0].type: expected 'function', found 'web_search'"},
      {with(R"("tools": [{"type": "function"}])"), "tools[0].function: expected an object"},
      {with(R"("tools": [{"type": "function", "function": {"name": ""}}])"),
       "tools[0].function.name: expected a name"},
      {with(R"("tools": [{"type": "function", "function": {"name": "f", "parameters": 5}}])"),
       "tools[0].function.parameters: expected an object, found an integer"},
      {with(R"("tool_choice": "required")"), "tool_choice: 'required', but there are no tools"},
      {with(tool + R"("tool_choice": "some")"), "tool_choice: expected none, auto, required"},
      {with(tool + R"("tool_choice": {"type": "function", "function": {"name": "g"}})"),
       "tool_choice.function.name: 'g' is none of the tools"},
      {with(tool + R"("tool_choice": {"type": "mcp"})"),
       "tool_choice.type: expected function or allowed_tools, found 'mcp'"},
      {with(tool + R"("tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto",
          "tools": [{"type": "function", "function": {"name": "g"}}]}})"),
       "'g' is none of the tools", "tool_choice.allowed_tools.tools[0].function.name"},
      {with(tool + R"("tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "some",
          "tools": []}})"),
       "tool_choice.allowed_tools.mode: expected auto or required, found 'some'"},
      {with(R"("response_format": {"type": "xml"})"), "response_format.type: expected text"},
      {with(R"("response_format": "json")"), "response_format: expected an object"},
      {with(R"("response_format": {"type": "json_schema"})"),
       "response_format.json_schema: expected an object, found nothing"},
      {with(R"("response_format": {"type": "json_schema", "json_schema": {"name": "x"}})"),
       "response_format.json_schema.schema: expected an object, found nothing"},
      {with(R"("response_format": {"type": "json_object"}, "ignore_eos": true)"),
       "ignore_eos: not for an answer of a given form"},
  });
}

}  // namespace
}  // namespace fathom::server
