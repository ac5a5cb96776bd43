// The API over the real engine and the bundled model: the same tokens as `generate` gives.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "server/api/openai_format.h"
#include "server/engine_fixture.h"
#include "support/sse_events.h"

namespace fathom::server {
namespace {

class OpenAiEngineTest : public EngineFixture {
 protected:
  // What the program itself answers.
  static OrderedJson generate(const std::string& messages, const std::string& arguments) {
    const std::string file = (std::filesystem::temp_directory_path() /
                              ("fathom_openai_" + std::to_string(getpid()) + ".json"))
                                 .string();
    std::ofstream(file) << messages;
    const std::string command = std::string(FATHOM_BINARY) + " generate --ckpt-path " +
                                kSmallModel + " --messages " + file +
                                " --json --device cpu --threads 1 " + arguments + " 2>/dev/null";
    FILE* pipe = popen(command.c_str(), "r");
    std::string out;
    char block[4096];
    for (size_t n; (n = std::fread(block, 1, sizeof(block), pipe)) > 0;) out.append(block, n);
    EXPECT_EQ(pclose(pipe), 0) << command;
    std::filesystem::remove(file);
    return OrderedJson::parse(out, nullptr, false);
  }
};

TEST_F(OpenAiEngineTest, AnswersAsGenerateDoes) {
  const char* conversations[] = {
      R"([{"role": "user", "content": "Hello!"}])",
      R"([{"role": "system", "content": "You are a storyteller."},
          {"role": "user", "content": "Tell me a story about a small boat ☕."}])",
      R"([{"role": "user", "content": "The pass key of Alice is 48213. What is it?"}])"};
  for (const char* messages : conversations) {
    for (const double temperature : {0.0, 0.9}) {
      const OrderedJson want = generate(
          messages, fmt::format("--temperature {} --seed 11 --max-new-tokens 40", temperature));
      OrderedJson body;
      body["messages"] = OrderedJson::parse(messages);
      body["temperature"] = temperature;
      body["seed"] = 11;
      body["max_tokens"] = 40;
      body["logprobs"] = true;
      const OrderedJson got = OrderedJson::parse(post("/v1/chat/completions", body));
      const OrderedJson& choice = got["choices"][0];
      EXPECT_EQ(choice["message"]["content"], want["message"]["content"]);
      EXPECT_EQ(choice["finish_reason"], want["finish_reason"]);
      const OrderedJson& ids = want["token_ids"];
      EXPECT_EQ(got["usage"]["completion_tokens"], ids.size());
      EXPECT_EQ(got["usage"]["prompt_tokens"], want["usage"]["prompt_tokens"]);
      const OrderedJson& tokens = choice["logprobs"]["content"];
      ASSERT_EQ(tokens.size(), ids.size());
      for (size_t i = 0; i < tokens.size(); ++i)
        EXPECT_EQ(tokens[i]["token"], token_text(tokenizer_, ids[i].get<int32_t>()));
      // Once more, now with a prompt that is in the cache, as a stream.
      body["stream"] = true;
      std::string text, bytes = post("/v1/chat/completions", body);
      bytes.resize(bytes.size() - kStreamDone.size());
      for (const OrderedJson& chunk : fathom::test::sse_events(bytes))
        text += chunk["choices"][0]["delta"].value("content", "");
      EXPECT_EQ(text, want["message"]["content"].get<std::string>());
    }
  }
}

TEST_F(OpenAiEngineTest, ChoicesFormsAndSelections) {
  OrderedJson body = OrderedJson::parse(R"({"n": 3, "seed": 5, "max_tokens": 24,
      "messages": [{"role": "user", "content": "Tell me a story."}]})");
  const OrderedJson three = OrderedJson::parse(post("/v1/chat/completions", body));
  ASSERT_EQ(three["choices"].size(), 3u);
  body["n"] = 1;
  for (size_t i = 0; i < 3; ++i) {  // choice i is what seed + i gives alone
    body["seed"] = 5 + i;
    const OrderedJson one = OrderedJson::parse(post("/v1/chat/completions", body));
    EXPECT_EQ(three["choices"][i]["message"], one["choices"][0]["message"]);
    SelectionStore::Text kept;
    EXPECT_TRUE(selections_.find(one["id"].get<std::string>(), kept));
    EXPECT_EQ(kept.kept, one["usage"]["completion_tokens"].get<int64_t>());
  }
  body["max_tokens"] = 200;
  body["temperature"] = 0;
  body["response_format"] = OrderedJson::parse(R"({"type": "json_schema", "json_schema": {
      "name": "answer", "strict": true, "schema": {"type": "object",
      "properties": {"name": {"type": "string", "enum": ["Ann", "Bob"]}, "old": {"type": "boolean"}},
      "required": ["name", "old"], "additionalProperties": false}}})");
  const OrderedJson formed = OrderedJson::parse(post("/v1/chat/completions", body));
  EXPECT_EQ(formed["choices"][0]["finish_reason"], "stop");
  const OrderedJson value = OrderedJson::parse(
      formed["choices"][0]["message"]["content"].get<std::string>(), nullptr, false);
  ASSERT_TRUE(value.is_object()) << formed;
  EXPECT_TRUE(value["name"] == "Ann" || value["name"] == "Bob");
  EXPECT_TRUE(value["old"].is_boolean());
}

TEST_F(OpenAiEngineTest, RequiredToolCallsFollowTheirSchema) {
  OrderedJson body = OrderedJson::parse(R"({"max_tokens": 200, "temperature": 0,
      "messages": [{"role": "user", "content": "What is the weather in Oslo?"}],
      "tools": [{"type": "function", "function": {"name": "weather", "description": "Weather now",
        "parameters": {"type": "object", "properties": {"city": {"type": "string",
          "enum": ["Oslo", "Bern"]}}, "required": ["city"], "additionalProperties": false}}}],
      "tool_choice": {"type": "function", "function": {"name": "weather"}}})");
  const OrderedJson got = OrderedJson::parse(post("/v1/chat/completions", body));
  EXPECT_EQ(got["choices"][0]["finish_reason"], "tool_calls") << got;
  const OrderedJson& calls = got["choices"][0]["message"]["tool_calls"];
  ASSERT_EQ(calls.size(), 1u);
  EXPECT_EQ(calls[0]["function"]["name"], "weather");
  const OrderedJson arguments =
      OrderedJson::parse(calls[0]["function"]["arguments"].get<std::string>());
  EXPECT_TRUE(arguments["city"] == "Oslo" || arguments["city"] == "Bern");
}

// What a client sees with drafts is what it sees without: text, calls held to their schemas, stop
// texts, log-probabilities and counts. Only the details of the usage tell.
class Drafting : public EngineFixture {
 public:
  Drafting() : EngineFixture(2) {}
  void TestBody() override {}
  using EngineFixture::post;
};

TEST_F(OpenAiEngineTest, DraftsChangeNothingThatAClientSees) {
  Drafting drafting;
  int64_t accepted = 0;
  for (const char* more :
       {R"("temperature": 0, "logprobs": true, "top_logprobs": 2)",
        R"("n": 2, "seed": 5, "frequency_penalty": 0.5, "stop": [" the"])",
        R"("n": 3, "seed": 9, "presence_penalty": 0.7, "repetition_penalty": 1.2, "top_p": 0.9)",
        R"("temperature": 0, "min_tokens": 30, "logit_bias": {"1": 8, "17": 2}, "stop": ["."])",
        R"("temperature": 0, "ignore_eos": true, "logit_bias": {"1": 6}, "stream": false)",
        R"("temperature": 0, "response_format": {"type": "json_schema", "json_schema": {
            "name": "answer", "strict": true, "schema": {"type": "object", "properties": {
            "name": {"type": "string", "enum": ["Ann", "Bob"]}, "old": {"type": "boolean"}},
            "required": ["name", "old"], "additionalProperties": false}}})",
        R"("temperature": 0.8, "seed": 2, "tool_choice": "required", "tools": [{"type": "function",
            "function": {"name": "weather", "parameters": {"type": "object", "properties": {
            "city": {"type": "string", "enum": ["Oslo", "Bern"]}}, "required": ["city"],
            "additionalProperties": false}}}])"}) {
    const OrderedJson body = OrderedJson::parse(
        std::string(R"({"max_tokens": 40, "messages": [{"role": "user", "content":
            "Tell me a story about a fox."}], )") +
        more + "}");
    OrderedJson plain = OrderedJson::parse(post("/v1/chat/completions", body));
    OrderedJson drafted = OrderedJson::parse(drafting.post("/v1/chat/completions", body));
    OrderedJson& details = drafted["usage"]["completion_tokens_details"];
    // Not there where the form of the answer left no guess to verify.
    accepted += details.value("accepted_prediction_tokens", int64_t{0});
    EXPECT_GE(details.value("rejected_prediction_tokens", int64_t{0}), 0);
    details.erase("accepted_prediction_tokens");
    details.erase("rejected_prediction_tokens");
    EXPECT_EQ(drafted["usage"], plain["usage"]) << more;
    ASSERT_EQ(drafted["choices"].size(), plain["choices"].size());
    for (size_t i = 0; i < plain["choices"].size(); ++i) {
      OrderedJson &a = drafted["choices"][i], &b = plain["choices"][i];
      for (OrderedJson* choice : {&a, &b})  // ids of calls are made up anew
        if ((*choice)["message"].contains("tool_calls"))
          for (OrderedJson& call : (*choice)["message"]["tool_calls"]) call.erase("id");
      EXPECT_EQ(a, b) << more;
    }
  }
  EXPECT_GT(accepted, 10);
}

TEST_F(OpenAiEngineTest, EchoedLogProbabilitiesAreThoseOfTheModel) {
  const OrderedJson whole = OrderedJson::parse(
      post("/v1/completions", OrderedJson::parse(R"({"prompt": "Once upon a time there was a boat",
      "echo": true, "max_tokens": 0, "logprobs": 2})")));
  const OrderedJson& l = whole["choices"][0]["logprobs"];
  // Also of a prompt that is in the cache by now.
  const OrderedJson again = OrderedJson::parse(
      post("/v1/completions", OrderedJson::parse(R"({"prompt": "Once upon a time there was a boat",
      "echo": true, "max_tokens": 0, "logprobs": 2})")));
  EXPECT_EQ(again["choices"], whole["choices"]);
  ASSERT_GT(l["tokens"].size(), 3u);
  EXPECT_TRUE(l["token_logprobs"][0].is_null());
  for (size_t i = 1; i < l["tokens"].size(); ++i) EXPECT_LE(l["token_logprobs"][i], 0.0);
}

}  // namespace
}  // namespace fathom::server
