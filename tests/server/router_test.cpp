#include "server/router.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "support/fake_reply.h"

namespace fathom::server {
namespace {

using Json = nlohmann::json;
using Headers = std::map<std::string, std::string>;

class RouterTest : public ::testing::Test {
 protected:
  void build(void (*change)(RouterOptions&) = [](RouterOptions&) {}) {
    RouterOptions options;
    change(options);
    router.emplace(std::move(options), metrics);
    const HttpHandler say_path = [](const auto& request, const auto& reply) {
      reply->send(200, "text/plain", request->path);
    };
    router->add("GET", "/open", say_path, {.needs_key = false});
    router->add("GET", "/v1/models", say_path);
    router->add("GET", "/v1/models/*", say_path);
    router->add("POST", "/v1/chat/completions", say_path);
    router->add("DELETE", "/v1/responses/*", say_path);
    router->add("POST", "/v1/messages", say_path, {.shape = ErrorShape::anthropic});
  }
  std::shared_ptr<FakeReply> ask(const std::string& method, const std::string& path,
                                 Headers headers = {}) {
    auto request = std::make_shared<HttpRequest>();
    request->method = method;
    request->path = path;
    request->headers = std::move(headers);
    return ask(request);
  }
  std::shared_ptr<FakeReply> ask(std::shared_ptr<const HttpRequest> request) {
    auto reply = std::make_shared<FakeReply>();
    router->handle(std::move(request), reply);
    reply->run();
    return reply;
  }
  static std::string header(const FakeReply& reply, const std::string& name) {
    for (const auto& [key, value] : reply.headers())
      if (key == name) return value;
    return {};
  }
  std::string counted() { return metrics.render({}); }

  Metrics metrics{"model"};
  std::optional<Router> router;
};

TEST_F(RouterTest, ARightKeyBesideAWrongOneIsEnough) {
  build([](RouterOptions& o) { o.api_keys = {"right"}; });
  const auto status = [&](const char* bearer, const char* key) {
    return ask("GET", "/v1/models", {{"authorization", bearer}, {"x-api-key", key}})->status();
  };
  EXPECT_EQ(status("Bearer wrong", "right"), 200);
  EXPECT_EQ(status("Bearer right", "wrong"), 200);
  EXPECT_EQ(status("", "right"), 200);
  EXPECT_EQ(status("Basic x", "right"), 200);
  EXPECT_EQ(status("Bearer wrong", "wrong"), 401);
  EXPECT_EQ(status("Bearer ", ""), 401);
}

TEST_F(RouterTest, WhatIsAbsentSaysWhat) {
  build();
  router->add_absent("/v1/embeddings", "there are none");
  router->add_absent("/v1/messages/batches", "no batches");
  const auto said = [&](const std::string& path) {
    const auto reply = ask("POST", path);
    EXPECT_EQ(reply->status(), 404);
    const Json body = Json::parse(reply->body());
    EXPECT_EQ(body.contains("type"), path.starts_with("/v1/messages")) << "the protocol's shape";
    return body["error"]["message"].get<std::string>();
  };
  EXPECT_EQ(said("/v1/embeddings"), "there is no /v1/embeddings: there are none");
  EXPECT_EQ(said("/v1/embeddings/x"), "there is no /v1/embeddings/x: there are none");
  EXPECT_EQ(said("/v1/embeddingsx"), "there is no /v1/embeddingsx");
  EXPECT_EQ(said("/v1/messages/batches"), "there is no /v1/messages/batches: no batches");
}

TEST_F(RouterTest, UnknownCodingsNameTheKnownOnes) {
  build();
  auto request = std::make_shared<HttpRequest>();
  request->method = "POST";
  request->path = "/v1/chat/completions";
  request->failure = Failure{415, "Content-Encoding: x"};
  EXPECT_EQ(header(*ask(request), "Accept-Encoding"), "gzip, deflate, zstd");
}

TEST_F(RouterTest, FindsRoutes) {
  build();
  EXPECT_EQ(ask("GET", "/v1/models")->status(), 200);
  EXPECT_EQ(ask("GET", "/v1/models/a/b")->body(), "/v1/models/a/b");
  EXPECT_EQ(ask("HEAD", "/v1/models")->status(), 200);
  for (const char* path : {"/", "", "/v1", "/v1/models/", "/v1/models/*/", "/v1/Models", "*", "//"})
    EXPECT_EQ(ask("GET", path)->status(), std::string(path) == "/v1/models/*/" ? 200 : 404) << path;
  const auto wrong = ask("PUT", "/v1/models");
  EXPECT_EQ(wrong->status(), 405);
  EXPECT_EQ(header(*wrong, "Allow"), "GET");
  EXPECT_EQ(ask("POST", "/v1/responses/x")->status(), 405);
}

TEST_F(RouterTest, WordsErrorsAsTheProtocolDoes) {
  build([](RouterOptions& o) { o.api_keys = {"secret"}; });
  const Json openai = Json::parse(ask("POST", "/v1/chat/completions")->body());
  EXPECT_EQ(openai["error"]["type"], "authentication_error");
  EXPECT_EQ(openai["error"]["code"], "invalid_api_key");
  EXPECT_TRUE(openai["error"]["param"].is_null());
  const Json anthropic = Json::parse(ask("POST", "/v1/messages")->body());
  EXPECT_EQ(anthropic["type"], "error");
  EXPECT_EQ(anthropic["error"]["type"], "authentication_error");
  EXPECT_EQ(Json::parse(ask("GET", "/v1/messages/batches")->body())["type"], "error");

  const struct {
    int status;
    const char *openai, *anthropic;
  } types[] = {{400, "invalid_request_error", "invalid_request_error"},
               {403, "permission_error", "permission_error"},
               {404, "not_found_error", "not_found_error"},
               {413, "invalid_request_error", "request_too_large"},
               {429, "rate_limit_error", "rate_limit_error"},
               {500, "server_error", "api_error"},
               {503, "server_error", "overloaded_error"}};
  for (const auto& t : types) {
    const Failure f{t.status, "words"};
    EXPECT_EQ(Json::parse(error_body(ErrorShape::openai, f))["error"]["type"], t.openai);
    EXPECT_EQ(Json::parse(error_body(ErrorShape::anthropic, f))["error"]["type"], t.anthropic);
  }
  const Json named = Json::parse(error_body(ErrorShape::openai, {400, "\xff"}, "p", "c"));
  EXPECT_EQ(named["error"]["param"], "p");
  EXPECT_EQ(named["error"]["code"], "c");
  FakeReply busy;
  send_error(busy, ErrorShape::openai, {429, "busy"});
  EXPECT_EQ(header(busy, "Retry-After"), "1");
}

TEST_F(RouterTest, AsksForKeys) {
  build([](RouterOptions& o) { o.api_keys = {"first", "a-much-longer-second-key"}; });
  EXPECT_EQ(ask("GET", "/open")->status(), 200);
  EXPECT_EQ(ask("GET", "/nowhere")->status(), 404);
  const auto none = ask("GET", "/v1/models");
  EXPECT_EQ(none->status(), 401);
  EXPECT_EQ(header(*none, "WWW-Authenticate"), "Bearer");
  for (const char* good : {"Bearer first", "bearer first", "BEARER  a-much-longer-second-key"})
    EXPECT_EQ(ask("GET", "/v1/models", {{"authorization", good}})->status(), 200) << good;
  for (const char* bad : {"Bearer", "Bearer ", "Bearer firs", "Bearer firstt", "Bearer firstfirst",
                          "Basic first", "first", "Bearer fiRst", "Bearer second"})
    EXPECT_EQ(ask("GET", "/v1/models", {{"authorization", bad}})->status(), 401) << bad;
  EXPECT_EQ(ask("POST", "/v1/messages", {{"x-api-key", "first"}})->status(), 200);
  EXPECT_EQ(ask("POST", "/v1/messages", {{"x-api-key", "last"}})->status(), 401);
  // The error must not say what was close.
  EXPECT_EQ(ask("GET", "/v1/models", {{"x-api-key", "firs"}})->body().find("first"),
            std::string::npos);
}

TEST_F(RouterTest, BrowsersOfAllowedOrigins) {
  build([](RouterOptions& o) {
    o.api_keys = {"k"};
    o.allowed_origins = {"https://app.example"};
  });
  const Headers preflight = {{"origin", "https://app.example"},
                             {"access-control-request-method", "POST"},
                             {"access-control-request-headers", "authorization, x-stainless-os"}};
  const auto yes = ask("OPTIONS", "/v1/chat/completions", preflight);  // without a key, as it must
  EXPECT_EQ(yes->status(), 204);
  EXPECT_EQ(header(*yes, "Access-Control-Allow-Origin"), "https://app.example");
  EXPECT_EQ(header(*yes, "Access-Control-Allow-Methods"), "POST, OPTIONS");
  EXPECT_EQ(header(*yes, "Access-Control-Allow-Headers"), "authorization, x-stainless-os");
  EXPECT_EQ(header(*yes, "Vary"), "Origin");
  Headers foreign = preflight;
  foreign["origin"] = "https://evil.example";
  EXPECT_EQ(header(*ask("OPTIONS", "/v1/models", foreign), "Access-Control-Allow-Origin"), "");

  const Headers asked = {{"origin", "https://app.example"}, {"x-api-key", "k"}, {"host", "h:1"}};
  const auto answer = ask("POST", "/v1/chat/completions", asked);
  EXPECT_EQ(answer->status(), 200);
  EXPECT_EQ(header(*answer, "Access-Control-Allow-Origin"), "https://app.example");
  // Errors are readable too, or nobody learns what is wrong.
  const auto refused = ask("POST", "/v1/chat/completions", {{"origin", "https://app.example"}});
  EXPECT_EQ(refused->status(), 401);
  EXPECT_EQ(header(*refused, "Access-Control-Allow-Origin"), "https://app.example");
}

TEST_F(RouterTest, PagesOfOtherSitesCannotMakeABrowserAsk) {
  build();
  const auto post = [&](const char* origin) {
    return ask("POST", "/v1/chat/completions", {{"origin", origin}, {"host", "localhost:8000"}})
        ->status();
  };
  EXPECT_EQ(post("http://localhost:8000"), 200);  // the server's own page
  EXPECT_EQ(post("https://evil.example"), 403);
  EXPECT_EQ(post("http://localhost:9000"), 403);
  EXPECT_EQ(post("null"), 403);
  build([](RouterOptions& o) { o.allowed_origins = {"*"}; });
  EXPECT_EQ(post("https://any.example"), 200);
  EXPECT_EQ(post("null"), 200);
}

TEST_F(RouterTest, LocalServersAnswerToLocalNames) {
  build([](RouterOptions& o) { o.local_hosts_only = true; });
  for (const char* host : {"localhost", "LOCALHOST:8000", "127.0.0.1:8000", "127.1.2.3", "[::1]",
                           "[::1]:8000", "chat.localhost:1", ""})
    EXPECT_EQ(ask("GET", "/open", {{"host", host}})->status(), 200) << host;
  for (const char* host : {"evil.example", "evil.example:8000", "127.0.0.1.evil.example",
                           "localhost.evil.example", "[::2]", "[", "10.0.0.1"})
    EXPECT_EQ(ask("GET", "/open", {{"host", host}})->status(), 403) << host;
}

TEST_F(RouterTest, NamesRequests) {
  build();
  EXPECT_EQ(header(*ask("GET", "/open", {{"x-request-id", "my-id_1.2:3"}}), "x-request-id"),
            "my-id_1.2:3");
  EXPECT_EQ(header(*ask("POST", "/v1/messages", {{"x-request-id", "mine"}}), "request-id"), "mine");
  std::string earlier;
  for (const std::string& bad : {std::string(), std::string("two words"), std::string("a\"b"),
                                 std::string("\xff"), std::string(129, 'a')}) {
    const std::string id = header(*ask("GET", "/nowhere", {{"x-request-id", bad}}), "x-request-id");
    EXPECT_TRUE(id.starts_with("req_")) << id;
    EXPECT_NE(id, earlier);
    earlier = id;
  }
}

TEST_F(RouterTest, AnswersForHandlersThatDoNot) {
  build();
  router->add("GET", "/throws", [](const auto&, const auto&) { throw Error("inner words"); });
  router->add("GET", "/forgets", [](const auto&, const auto&) {});
  router->add("GET", "/v1/messages/throws", [](const auto&, const auto&) { throw Error("x"); },
              {.shape = ErrorShape::anthropic});
  const auto thrown = ask("GET", "/throws");
  EXPECT_EQ(thrown->status(), 500);
  EXPECT_EQ(thrown->body().find("inner words"), std::string::npos);
  EXPECT_EQ(ask("GET", "/forgets")->status(), 500);
  EXPECT_EQ(Json::parse(ask("GET", "/v1/messages/throws")->body())["type"], "error");
}

TEST_F(RouterTest, AnswersWhatTheTransportRefused) {
  build([](RouterOptions& o) { o.api_keys = {"k"}; });
  auto request = std::make_shared<HttpRequest>();
  request->method = "POST";
  request->path = "/v1/messages";
  request->failure = Failure{413, "too large"};
  const auto reply = ask(request);
  EXPECT_EQ(reply->status(), 413);
  EXPECT_EQ(Json::parse(reply->body())["error"]["type"], "request_too_large");
}

TEST_F(RouterTest, CountsEveryRequestOnceUnderItsRoute) {
  build();
  std::shared_ptr<HttpReply> kept;
  router->add("GET", "/later", [&](const auto&, const auto& reply) { kept = reply; });
  ask("GET", "/v1/models/one");
  ask("GET", "/v1/models/two");
  ask("GET", "/made/up/1");
  ask("GET", "/made/up/2");
  const auto gone = ask("GET", "/later");
  EXPECT_EQ(counted().find("/later"), std::string::npos);
  gone->abandon();
  gone->run();
  kept->send(200, "text/plain", "to nobody");
  kept.reset();
  const std::string page = counted();
  const auto has = [&](const std::string& line) {
    return page.find("fathom:http_requests_total{" + line + "\n") != std::string::npos;
  };
  EXPECT_TRUE(has("path=\"/v1/models/*\",status=\"200\"} 2")) << page;
  EXPECT_TRUE(has("path=\"other\",status=\"404\"} 2"));
  EXPECT_TRUE(has("path=\"/later\",status=\"499\"} 1"));
  EXPECT_FALSE(has("path=\"/later\",status=\"200\"} 1"));
}

}  // namespace
}  // namespace fathom::server
