// Whose turn is last in a chat, where instructions stand, and what becomes of images.
#include "openai_fixture.h"
#include "support/api_paths.h"

namespace fathom::server {
namespace {

using test::kChat;
using ::testing::HasSubstr;

std::string chat(const std::string& messages, const std::string& more = "") {
  return R"({"messages": [)" + messages + "]" + (more.empty() ? "" : ", " + more) + "}";
}

class ChatTurns : public OpenAiTest {
 protected:
  // The prompt of a request, as text.
  std::string prompt(const std::string& messages, const std::string& more = "") {
    answer_with("ok");
    answer(kChat, chat(messages, more));
    return tokenizer().decode(requests.back().ids);
  }
};

class ChatTurnsV32 : public OpenAiV32Test {
 protected:
  std::string prompt(const std::string& messages, const std::string& more = "") {
    answer_with("ok");
    answer(kChat, chat(messages, more));
    return tokenizer().decode(requests.back().ids);
  }
};

constexpr const char* kUser = R"({"role": "user", "content": "Q"})";
constexpr const char* kBegun = R"({"role": "user", "content": "Q"},
    {"role": "assistant", "content": "It is "})";

TEST_F(ChatTurns, ALastMessageOfTheAssistantsIsContinued) {
  const std::string want = "<｜begin▁of▁sentence｜><｜User｜>Q<｜Assistant｜></think>It is ";
  EXPECT_EQ(prompt(kBegun), want);
  EXPECT_EQ(prompt(kBegun, R"("continue_final_message": true, "add_generation_prompt": false)"),
            want);
  EXPECT_EQ(prompt(kBegun, R"("reasoning_effort": "high")"), want) << "it has begun";
  answer_with("A.");
  const OrderedJson got = answer(kChat, chat(kBegun));
  EXPECT_EQ(got["choices"][0]["message"]["content"], "A.");
  EXPECT_EQ(got["choices"][0]["finish_reason"], "stop");
}

TEST_F(ChatTurns, AnEmptyAnswerIsYetToBeGiven) {
  const std::string empty = std::string(kUser) + R"(, {"role": "assistant", "content": ""})";
  EXPECT_EQ(prompt(empty), prompt(kUser));
  EXPECT_TRUE(prompt(empty, R"("reasoning_effort": "high")").ends_with("<think>"));
  EXPECT_EQ(refusal(kChat, chat(R"({"role": "assistant", "content": ""})"))["message"],
            "messages: there is nothing to answer");
}

TEST_F(ChatTurns, WhatContradictsTheLastMessageIsRefused) {
  EXPECT_EQ(refusal(kChat, chat(kUser, R"("continue_final_message": true)"))["message"],
            "continue_final_message: the last message is not the assistant's");
  EXPECT_EQ(refusal(kChat, chat(kBegun, R"("continue_final_message": false)"))["param"],
            "continue_final_message");
  EXPECT_EQ(refusal(kChat, chat(kUser, R"("add_generation_prompt": false)"))["param"],
            "add_generation_prompt");
}

TEST_F(ChatTurns, InstructionsAloneOrBehindAnAnswerAreAnswered) {
  for (const char* role : {"system", "developer"}) {
    const std::string last = R"({"role": ")" + std::string(role) + R"(", "content": "S"})";
    EXPECT_EQ(prompt(last), "<｜begin▁of▁sentence｜><｜User｜>S<｜Assistant｜></think>");
    EXPECT_EQ(prompt(std::string(kBegun) + ", " + last),
              "<｜begin▁of▁sentence｜><｜User｜>Q<｜Assistant｜></think>It is "
              "<｜end▁of▁sentence｜><｜User｜>S<｜Assistant｜></think>");
    // Where a question is open, the encoding's template puts them in front.
    EXPECT_EQ(prompt(std::string(kUser) + ", " + last),
              "<｜begin▁of▁sentence｜>S<｜User｜>Q<｜Assistant｜></think>");
  }
}

TEST_F(ChatTurnsV32, InstructionsDoNotStandWhereTheAnswerBegins) {
  const std::string system = R"({"role": "system", "content": "S"})";
  EXPECT_EQ(prompt(system + ", " + kUser),
            "<｜begin▁of▁sentence｜>S<｜User｜>Q<｜Assistant｜></think>");
  EXPECT_EQ(prompt(std::string(kUser) + ", " + system),
            "<｜begin▁of▁sentence｜><｜User｜>Q\n\nS<｜Assistant｜></think>");
  EXPECT_EQ(prompt(system), "<｜begin▁of▁sentence｜><｜User｜>S<｜Assistant｜></think>");
  EXPECT_EQ(prompt(kBegun), "<｜begin▁of▁sentence｜><｜User｜>Q<｜Assistant｜></think>It is ");
  EXPECT_EQ(prompt(kBegun, R"("reasoning_effort": "high")"),
            "<｜begin▁of▁sentence｜><｜User｜>Q<｜Assistant｜></think>It is ");
}

// What was said between a call and its result stands behind the result: an instruction, a word of
// the user's. The other protocols read the same.
TEST_F(ChatTurns, WhatIsSaidBetweenACallAndItsResult) {
  const std::string call = R"({"role": "assistant", "content": null, "tool_calls": [
      {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
      {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}]})";
  const auto result = [](const char* id) {
    return fmt::format(R"({{"role": "tool", "tool_call_id": "{}", "content": "{}1"}})", id, id);
  };
  const std::string wait = R"({"role": "user", "content": "Wait"})";
  const std::string got =
      prompt(std::string(kUser) + "," + call + "," + result("b") + "," + wait + "," + result("a"));
  EXPECT_THAT(got, HasSubstr("<｜tool▁output▁begin｜>b1<｜tool▁output▁end｜>"
                             "<｜tool▁output▁begin｜>a1<｜tool▁output▁end｜>"
                             "<｜User｜>Wait<｜Assistant｜></think>"));
  add_responses_routes(router, service);
  add_anthropic_routes(router, service);
  const auto prompt_of = [&](const std::string& path, const std::string& body) {
    EXPECT_EQ(post(path, body)->status(), 200);
    return tokenizer().decode(requests.back().ids);
  };
  for (const char* role : {"system", "user"}) {
    const std::string between = fmt::format(R"({{"role": "{}", "content": "Wait"}})", role);
    EXPECT_THAT(prompt_of("/v1/responses", R"({"input": [{"role": "user", "content": "Q"},
        {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}, )" +
                                               between + R"(,
        {"type": "function_call_output", "call_id": "a", "output": "a1"}]})"),
                HasSubstr("a1<｜tool▁output▁end｜><｜User｜>Wait<｜Assistant｜></think>"));
    EXPECT_THAT(prompt_of("/v1/messages", R"({"max_tokens": 5, "messages": [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]},
        )" + between + R"(, {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "a", "content": "a1"}]}]})"),
                HasSubstr("a1<｜tool▁output▁end｜><｜User｜>Wait<｜Assistant｜></think>"));
  }
}

TEST_F(ChatTurns, CallsOfCustomToolsInTheHistoryAreTold) {
  EXPECT_THAT(prompt(std::string(kUser) + R"(, {"role": "assistant", "content": null, "tool_calls":
      [{"id": "a", "type": "custom", "custom": {"name": "patch", "input": "*** Begin"}}]},
      {"role": "tool", "tool_call_id": "a", "content": "done"})"),
              HasSubstr("patch<｜tool▁sep｜>{\"input\": \"*** Begin\"}<｜tool▁call▁end｜>"));
}

constexpr const char* kImage =
    R"({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}})";

TEST_F(ChatTurns, ImagesOfTheHistoryHaveAWordInTheirPlace) {
  const std::string image = kImage;
  const std::string got =
      prompt(R"({"role": "user", "content": [{"type": "text", "text": "See "}, )" + image + R"(]},
         {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "tool_calls": [
           {"id": "a", "function": {"name": "look", "arguments": "{}"}}]},
         {"role": "tool", "tool_call_id": "a", "content": [)" +
             image + R"(,
           {"type": "input_audio"}, {"type": "file", "file": {}}]},
         {"role": "user", "content": "Well?"})");
  EXPECT_THAT(got, HasSubstr("See [image: this model reads text alone]<｜Assistant｜>"));
  EXPECT_THAT(got, HasSubstr("</think>No."));
  EXPECT_THAT(got, HasSubstr("[image: this model reads text alone][sound: this model reads text "
                             "alone][file: this model reads text alone]"));
}

TEST_F(ChatTurns, AnImageThatIsAskedAboutIsRefused) {
  const std::string image = kImage;
  const std::string asked =
      R"({"role": "user", "content": [{"type": "text", "text": "What is it?"}, )" + image + "]}";
  const OrderedJson error = refusal(kChat, chat(asked));
  EXPECT_EQ(error["param"], "messages[0].content[1].type");
  EXPECT_THAT(error["message"].get<std::string>(), HasSubstr("this model reads text alone"));
  EXPECT_EQ(refusal(kChat, chat(asked + R"(, {"role": "system", "content": "S"})"))["param"],
            "messages[0].content[1].type");
  // Once: the conversation goes on.
  EXPECT_THAT(prompt(asked + R"(, {"role": "user", "content": "Never mind."})"),
              HasSubstr("[image: this model reads text alone]"));
}

TEST_F(ChatTurns, AStreamThatMayCallBeginsWithoutContent) {
  answer_with("ok");
  const std::string tools = R"("stream": true, "tools": [{"type": "function",
      "function": {"name": "f"}}])";
  EXPECT_TRUE(stream(kChat, chat(kUser, tools))[0]["choices"][0]["delta"]["content"].is_null());
  EXPECT_EQ(stream(kChat, chat(kUser, R"("stream": true)"))[0]["choices"][0]["delta"]["content"],
            "");
  EXPECT_EQ(stream(kChat,
                   chat(kUser,
                        tools + R"(, "tool_choice": "none")"))[0]["choices"][0]["delta"]["content"],
            "");
}

TEST_F(ChatTurns, StreamsAreNotKeptOrHeldBack) {
  answer_with("ok");
  for (const auto& [path, body] :
       {std::pair<const char*, std::string>{kChat, chat(kUser, R"("stream": true)")},
        {"/v1/completions", R"({"prompt": "x", "stream": true})"}}) {
    const auto reply = post(path, body);
    std::map<std::string, std::string> headers;
    for (const auto& [name, value] : reply->headers()) headers[name] = value;
    EXPECT_EQ(headers["Cache-Control"], "no-cache");
    EXPECT_EQ(headers["X-Accel-Buffering"], "no");
  }
}

TEST_F(ChatTurns, ModelsHaveTheFieldsOfBothProtocols) {
  const OrderedJson list = OrderedJson::parse(get("/v1/models")->body());
  const OrderedJson& model = list["data"][1];
  EXPECT_EQ(model["type"], "model");
  EXPECT_EQ(model["display_name"], "other-name");
  EXPECT_EQ(model["created_at"], "2023-11-14T22:13:20Z");
  for (const char* field : {"max_model_len", "max_input_tokens", "context_length"})
    EXPECT_EQ(model[field], 4096) << field;
  EXPECT_EQ(list["first_id"], "fathom-small");
  EXPECT_EQ(list["last_id"], "other-name");
  EXPECT_EQ(list["has_more"], false);
}

}  // namespace
}  // namespace fathom::server
