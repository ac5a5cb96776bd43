// The page and its files: there without a key, with a policy, asked for again with a 304.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "server/router.h"
#include "server/service.h"
#include "server/web_assets.h"
#include "support/fake_reply.h"

namespace fathom::server {
namespace {

using testing::HasSubstr;
using testing::Not;

const std::filesystem::path kWeb = FATHOM_SOURCE_DIR "/web";

class Page : public testing::Test {
 protected:
  Page()
      : metrics_("small"),
        router_({.api_keys = {"secret"}, .allowed_origins = {}, .log = {}}, metrics_) {
    add_page_routes(router_);
  }

  struct Answer {
    int status = 0;
    std::string content_type, body;
    std::map<std::string, std::string> headers;
  };

  Answer get(const std::string& path, const std::string& if_none_match = {}) {
    auto request = std::make_shared<HttpRequest>();
    request->method = "GET";
    request->path = path;
    if (!if_none_match.empty()) request->headers["if-none-match"] = if_none_match;
    auto reply = std::make_shared<FakeReply>();
    router_.handle(request, reply);
    Answer answer{reply->status(), reply->content_type(), reply->body(), {}};
    for (const auto& [name, value] : reply->headers()) answer.headers[name] = value;
    return answer;
  }

  Metrics metrics_;
  Router router_;
};

TEST_F(Page, EveryFileIsServedAsItIs) {
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kWeb)) {
    std::ifstream in(entry.path(), std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(in), {}};
    const Answer reply = get("/web/" + entry.path().filename().string());
    EXPECT_EQ(reply.status, 200) << entry.path();
    EXPECT_TRUE(reply.body == bytes) << entry.path();
    ++files;
  }
  EXPECT_EQ(files, web_assets().size());
}

TEST_F(Page, TheRootIsThePage) {
  const Answer reply = get("/");
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.content_type, "text/html; charset=utf-8");
  EXPECT_EQ(reply.body, get("/web/index.html").body);
}

TEST_F(Page, ScriptsComeFromThisServerAlone) {
  Answer reply = get("/");
  EXPECT_THAT(reply.headers["Content-Security-Policy"], HasSubstr("default-src 'self'"));
  EXPECT_THAT(reply.headers["Content-Security-Policy"], Not(HasSubstr("unsafe")));
  EXPECT_EQ(reply.headers["X-Content-Type-Options"], "nosniff");
  // What the policy would refuse is not there to begin with.
  EXPECT_THAT(reply.body, Not(HasSubstr("<script>")));
  EXPECT_THAT(reply.body, Not(HasSubstr("style=")));
  EXPECT_THAT(reply.body, Not(HasSubstr("http://")));
  EXPECT_THAT(reply.body, Not(HasSubstr("https://")));
}

TEST_F(Page, ContentTypes) {
  EXPECT_EQ(get("/web/style.css").content_type, "text/css; charset=utf-8");
  EXPECT_EQ(get("/web/main.js").content_type, "text/javascript; charset=utf-8");
  EXPECT_EQ(get("/web/icon.svg").content_type, "image/svg+xml");
}

TEST_F(Page, UnchangedFilesAreNotSentAgain) {
  for (const std::string path : {"/", "/web/main.js"}) {
    Answer first = get(path);
    const std::string etag = first.headers["ETag"];
    ASSERT_GT(etag.size(), 2u);
    for (const std::string& same : {etag, "W/" + etag, "\"x\", " + etag + " ", std::string("*")}) {
      Answer again = get(path, same);
      EXPECT_EQ(again.status, 304) << same;
      EXPECT_EQ(again.body, "");
      EXPECT_EQ(again.headers["ETag"], etag);
    }
    for (const std::string& other : {std::string("\"x\""), etag.substr(1), std::string(",,")}) {
      EXPECT_EQ(get(path, other).status, 200) << other;
    }
  }
  EXPECT_NE(get("/").headers["ETag"], get("/web/main.js").headers["ETag"]);
}

TEST_F(Page, OtherPathsAreNotFound) {
  EXPECT_EQ(get("/web/").status, 404);
  EXPECT_EQ(get("/web/../CMakeLists.txt").status, 404);
  EXPECT_EQ(get("/web/nothing.js").status, 404);
}

}  // namespace
}  // namespace fathom::server
