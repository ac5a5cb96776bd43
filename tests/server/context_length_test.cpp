// A prompt that is too long is one condition, told in each protocol's words; a limit of the answer
// beyond the context is none, and means the context's end on every endpoint.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/api_paths.h"
#include "support/scripted_service.h"
#include "support/sse_events.h"

namespace fathom::server {
namespace {

using test::kChat;
using test::kCompletions;
using test::kMessages;
using test::kResponses;
using test::ScriptedService;
using test::sse_events;

constexpr int64_t kSmall = 24;  // tokens of a context that an answer fills
constexpr const char* kPaths[] = {kChat, kCompletions, kResponses, kMessages};

class ContextLength : public ::testing::Test {
 protected:
  explicit ContextLength(int64_t context = 4096)
      : served([](ServiceOptions&) {}, options(context)) {
    add_openai_routes(served.router, served.service);
    add_responses_routes(served.router, served.service);
    add_anthropic_routes(served.router, served.service);
    add_utility_routes(served.router, served.service);
  }

  static OrderedJson request(const std::string& path, const std::string& text, int64_t limit,
                             bool stream) {
    OrderedJson body = {{"temperature", 0}, {"stream", stream}};
    if (path == kCompletions) {
      body["prompt"] = text;
    } else if (path == kResponses) {
      body["input"] = text;
      body["store"] = false;
    } else {
      body["messages"] = {{{"role", "user"}, {"content", text}}};
    }
    body[path == kResponses ? "max_output_tokens" : "max_tokens"] = limit;
    return body;
  }

  // More tokens than the context has.
  static std::string words() {
    std::string text;
    for (int i = 0; i < 2500; ++i) text += "a b ";
    return text;
  }

  std::shared_ptr<FakeReply> ask(const std::string& path, const OrderedJson& body) {
    return served.post(path, body.dump());
  }

  // Why an answer ended, in the protocol's words.
  std::string end_of(const std::string& path, int64_t limit, bool stream) {
    const auto reply = ask(path, request(path, "Hi", limit, stream));
    EXPECT_EQ(reply->status(), 200) << reply->body();
    if (!stream) return end_of(OrderedJson::parse(reply->body()));
    std::string body = reply->body();
    const std::string done = "data: [DONE]\n\n";
    if (body.ends_with(done)) body.resize(body.size() - done.size());
    std::string end;
    for (const OrderedJson& event : sse_events(body)) {
      const bool last_response = event.contains("response") && event["type"] != "response.created";
      const std::string said = end_of(last_response             ? event["response"]
                                      : event.contains("delta") ? event["delta"]
                                                                : event);
      if (!said.empty()) end = said;
    }
    return end;
  }

  ScriptedService served;

 private:
  static test::ScriptedEngine::Options options(int64_t context) {
    test::ScriptedEngine::Options o;
    o.max_context = context;
    return o;
  }
  static std::string end_of(const OrderedJson& answer) {
    const auto text = [](const OrderedJson& at, const char* key) {
      return at.contains(key) && at[key].is_string() ? at[key].get<std::string>() : std::string();
    };
    if (answer.contains("choices")) return text(answer["choices"][0], "finish_reason");
    if (answer.contains("incomplete_details") && answer["incomplete_details"].is_object())
      return text(answer["incomplete_details"], "reason");
    return text(answer, "stop_reason");
  }
};

class SmallContext : public ContextLength {
 protected:
  SmallContext() : ContextLength(kSmall) {
    std::string text;
    for (int i = 0; i < kSmall; ++i) text += "One two. ";
    served.say(text);
  }
};

TEST_F(ContextLength, APromptThatIsTooLongIsToldInTheProtocolsWords) {
  served.say("ok");
  // One that is counted, and one that need not be.
  for (const std::string& text : {words(), std::string(1 << 20, 'a')}) {
    for (const char* path : kPaths) {
      for (const bool stream : {false, true}) {
        SCOPED_TRACE(fmt::format("{} {}", path, stream));
        const auto reply = ask(path, request(path, text, 5, stream));
        if (path == kResponses && stream) {
          const OrderedJson last = sse_events(reply->body()).back();
          EXPECT_EQ(last["type"], "response.failed");
          EXPECT_EQ(last["response"]["error"]["code"], "context_length_exceeded");
          continue;
        }
        ASSERT_EQ(reply->status(), 400) << reply->body();
        const OrderedJson error = OrderedJson::parse(reply->body())["error"];
        const std::string message = error["message"];
        EXPECT_EQ(error["type"], "invalid_request_error");
        if (path == kMessages) {
          EXPECT_THAT(message,
                      ::testing::MatchesRegex("prompt is too long: [0-9]+ tokens > 4095 maximum"));
          continue;
        }
        EXPECT_EQ(error["code"], "context_length_exceeded");
        EXPECT_THAT(message,
                    ::testing::StartsWith("This model's maximum context length is 4096 tokens"));
        EXPECT_EQ(error["param"], path == kChat          ? "messages"
                                  : path == kCompletions ? "prompt"
                                                         : "input");
      }
    }
  }
  EXPECT_TRUE(served.engine.submitted().empty());
}

TEST_F(ContextLength, ALimitBeyondTheContextIsItsEnd) {
  served.say("ok");
  for (const char* path : kPaths) {
    for (const bool stream : {false, true}) {
      for (const int64_t limit : {int64_t{4096}, int64_t{100'000}, int64_t{1} << 40}) {
        const auto reply = ask(path, request(path, "Hi", limit, stream));
        EXPECT_EQ(reply->status(), 200) << path << reply->body();
        EXPECT_EQ(served.last().max_new_tokens,
                  served.engine.context() - static_cast<int64_t>(served.last().ids.size()));
      }
    }
  }
  OrderedJson newer = request(kChat, "Hi", 5, false);
  newer["max_completion_tokens"] = 100'000;
  EXPECT_EQ(ask(kChat, newer)->status(), 200);
}

TEST_F(SmallContext, TheEndOfTheContextIsToldAsTheEnd) {
  for (const bool stream : {false, true}) {
    for (const int64_t limit : {int64_t{3}, int64_t{64'000}}) {
      EXPECT_EQ(end_of(kChat, limit, stream), "length");
      EXPECT_EQ(end_of(kCompletions, limit, stream), "length");
      EXPECT_EQ(end_of(kResponses, limit, stream), "max_output_tokens");
      EXPECT_EQ(end_of(kMessages, limit, stream),
                limit == 3 ? "max_tokens" : "model_context_window_exceeded");
    }
  }
}

// What counts tokens counts those of any prompt: clients ask to learn whether it fits.
TEST_F(ContextLength, CountsHaveNoLimit) {
  for (const std::string& text : {words(), std::string(1 << 16, 'a')}) {
    for (const auto& [path, like] : {std::pair("/v1/messages/count_tokens", kMessages),
                                     {"/v1/responses/input_tokens", kResponses},
                                     {"/tokenize", kMessages}}) {
      const auto reply = ask(path, request(like, text, 5, false));
      ASSERT_EQ(reply->status(), 200) << path << reply->body();
      const OrderedJson counted = OrderedJson::parse(reply->body());
      EXPECT_GT(counted.value(counted.contains("count") ? "count" : "input_tokens", 0), 4096);
    }
  }
}

}  // namespace
}  // namespace fathom::server
