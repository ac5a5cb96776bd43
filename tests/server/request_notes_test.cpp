// What the log says of a request that was not served to the letter.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "support/scripted_service.h"

namespace fathom::server {
namespace {

// A folder's tokenizer as the bundled one's is, but for putting its marker in front of texts.
Tokenizer marking_tokenizer() {
  const std::filesystem::path from = FATHOM_SOURCE_DIR "/models/small";
  const std::filesystem::path folder = std::filesystem::path(::testing::TempDir()) / "marking";
  std::filesystem::create_directories(folder);
  std::filesystem::copy_file(from / "tokenizer.json", folder / "tokenizer.json",
                             std::filesystem::copy_options::overwrite_existing);
  std::ofstream(folder / "tokenizer_config.json")
      << R"({"add_bos_token": true, "tokenizer_class": "LlamaTokenizerFast",
             "bos_token": "<｜begin▁of▁sentence｜>"})";
  return Tokenizer::from_folder(folder);
}

// The log line of a request.
OrderedJson logged(const std::string& path, const std::string& body,
                   const Tokenizer* tokenizer = nullptr) {
  test::ScriptedService served;
  served.say("ok");
  Service service{served.engine,      tokenizer ? *tokenizer : served.tokenizer,
                  served.constraints, served.metrics,
                  served.selections,  served.service.options};
  ::testing::internal::CaptureStderr();
  {
    RouterOptions options;
    const auto log = options.log = std::make_shared<ServerLog>(LogLevel::info);
    Router router(options, served.metrics);
    add_openai_routes(router, service);
    add_responses_routes(router, service);
    auto request = std::make_shared<HttpRequest>();
    request->method = "POST";
    request->path = path;
    request->body = body;
    auto reply = std::make_shared<FakeReply>();
    router.handle(std::move(request), reply);
    EXPECT_TRUE(reply->run_until_complete());
    EXPECT_EQ(reply->status(), 200) << reply->body();
    // The engine's thread may still hold the reply, and so the log: its end is not waited for.
    EXPECT_TRUE(log->finish(5));
  }
  std::istringstream text(::testing::internal::GetCapturedStderr());
  OrderedJson line;
  for (std::string one; std::getline(text, one);)
    if (one.starts_with("{")) line = OrderedJson::parse(one);
  return line;
}

TEST(RequestNotes, ASecondMarkerOfTheBeginning) {
  const Tokenizer marking = marking_tokenizer();
  const std::string marker = "<｜begin▁of▁sentence｜>";
  const auto asked = [&](const std::string& prompts, const std::string& more = "") {
    return logged("/v1/completions", R"({"max_tokens": 2, "prompt": )" + prompts + more + "}",
                  &marking);
  };
  const std::string second = "a second marker of the beginning";
  EXPECT_EQ(asked("\"" + marker + "Hello\"")["left_out"], second);
  EXPECT_EQ(asked(R"(["Hello", ")" + marker + "Hello\"]")["left_out"], second);
  EXPECT_FALSE(asked("\"Hello\"").contains("left_out"));
  EXPECT_FALSE(asked("\"Hello " + marker + "\"").contains("left_out"));
  EXPECT_FALSE(asked("[0, 100]").contains("left_out"));
  // Where the tokenizer is to add none, there is no second one.
  EXPECT_FALSE(
      asked("\"" + marker + "Hello\"", R"(, "add_special_tokens": false)").contains("left_out"));
}

TEST(RequestNotes, ALimitThatTheContextCuts) {
  const auto asked = [](int64_t limit) {
    return logged("/v1/completions",
                  fmt::format(R"({{"prompt": [0, 100], "max_tokens": {}}})", limit));
  };
  EXPECT_EQ(asked(5000)["max_tokens_cut_to"], 4094);
  EXPECT_FALSE(asked(4094).contains("max_tokens_cut_to"));
}

TEST(RequestNotes, ToolsAndItemsThatTheModelDoesNotHearOf) {
  const OrderedJson line = logged("/v1/responses", R"({"tools": [{"type": "web_search"}],
      "input": [{"role": "user", "content": "Hi"}, {"type": "ghost", "x": 1}]})");
  EXPECT_EQ(line["left_out"], "ghost, web_search");
}

}  // namespace
}  // namespace fathom::server
