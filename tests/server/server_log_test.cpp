#include "server/server_log.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "base/error.h"
#include "server/router.h"
#include "support/fake_reply.h"

namespace fathom::server {
namespace {

using Json = nlohmann::json;

// The lines that `act` logs, each of which must be JSON.
template <class Act>
std::vector<Json> lines_of(LogLevel level, Act act) {
  ::testing::internal::CaptureStderr();
  {
    auto log = std::make_shared<ServerLog>(level);
    act(log);
  }
  std::istringstream text(::testing::internal::GetCapturedStderr());
  std::vector<Json> lines;
  for (std::string line; std::getline(text, line);) lines.push_back(Json::parse(line));
  return lines;
}

std::shared_ptr<HttpRequest> post_of(const std::string& body) {
  auto request = std::make_shared<HttpRequest>();
  request->method = "POST";
  request->path = "/say";
  request->body = body;
  request->peer = "127.0.0.1";
  return request;
}

std::vector<Json> lines_of_request(bool log_prompts, const std::string& body) {
  return lines_of(LogLevel::info, [&](const std::shared_ptr<ServerLog>& log) {
    Metrics metrics("m");
    RouterOptions options;
    options.log = log;
    options.log_prompts = log_prompts;
    Router router(options, metrics);
    router.add("POST", "/say", [](const auto&, const auto& reply) {
      reply->note("prompt_tokens", 3);
      reply->send(200, "text/plain", "12345");
    });
    router.handle(post_of(body), std::make_shared<FakeReply>());
  });
}

TEST(ServerLog, HasOneLineARequest) {
  const std::vector<Json> lines = lines_of_request(false, "secret words");
  ASSERT_EQ(lines.size(), 1u);
  const Json& line = lines[0];
  EXPECT_EQ(line["event"], "request");
  EXPECT_EQ(line["level"], "info");
  EXPECT_EQ(line["method"], "POST");
  EXPECT_EQ(line["path"], "/say");
  EXPECT_EQ(line["status"], 200);
  EXPECT_EQ(line["bytes"], 5);
  EXPECT_EQ(line["peer"], "127.0.0.1");
  EXPECT_EQ(line["end"], "complete");
  EXPECT_EQ(line["prompt_tokens"], 3);
  EXPECT_GE(line["seconds"].get<double>(), 0);
  EXPECT_TRUE(line["id"].get<std::string>().starts_with("req_"));
  EXPECT_EQ(line.dump().find("secret"), std::string::npos);
}

TEST(ServerLog, ShowsPromptsWhenAsked) {
  const std::vector<Json> lines = lines_of_request(true, "secret \xff words\n");
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["body"], "secret \xef\xbf\xbd words\n");
}

TEST(ServerLog, KeepsToItsLevel) {
  const auto three = [](const std::shared_ptr<ServerLog>& log) {
    log->request({});
    log->write(LogLevel::warning, "a \"quoted\" {} warning\n");
    log->write(LogLevel::error, "an error");
  };
  EXPECT_EQ(lines_of(LogLevel::debug, three).size(), 3u);
  const std::vector<Json> lines = lines_of(LogLevel::warning, three);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0]["message"], "a \"quoted\" {} warning\n");
  EXPECT_EQ(lines_of(LogLevel::off, three).size(), 0u);
  EXPECT_EQ(log_level_of_name("error"), LogLevel::error);
  EXPECT_THROW(log_level_of_name("loud"), Error);
}

}  // namespace
}  // namespace fathom::server
