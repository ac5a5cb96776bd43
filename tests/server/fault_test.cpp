// What can go wrong between a client and the engine, over real sockets and through every layer but
// the model: nothing crashes, nothing is lost, and the server answers the next one.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <map>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "server/http/http_server.h"
#include "server/http_client.h"
#include "support/api_paths.h"
#include "support/scripted_service.h"

namespace fathom::server {
namespace {

using test::kChat;
using test::ScriptedEngine;
using test::ScriptedService;

std::string chat_body(const std::string& more = {}) {
  return R"({"messages":[{"role":"user","content":"hello"}])" + more + "}";
}
const std::string kLongStream =
    chat_body(R"(,"stream":true,"ignore_eos":true,"max_tokens":100000)");

class Faults : public ::testing::Test {
 protected:
  Faults() { http_options.port = 0; }

  void start(ScriptedEngine::Options engine = {}) {
    engine.max_context = 1 << 20;
    served.emplace([](ServiceOptions&) {}, engine);
    served->say("words that are said again and again");
    add_openai_routes(served->router, served->service);
    add_responses_routes(served->router, served->service);
    add_anthropic_routes(served->router, served->service);
    add_utility_routes(served->router, served->service);
    http.emplace(http_options, [this](auto request, auto reply) {
      served->router.handle(std::move(request), std::move(reply));
    });
    http->start();
  }
  static ScriptedEngine::Options paced(int microseconds) {
    ScriptedEngine::Options o;
    o.step = std::chrono::microseconds(microseconds);
    return o;
  }
  HttpClient client(int receive_buffer = 0) { return HttpClient(http->port(), receive_buffer); }
  ScriptedEngine& engine() { return served->engine; }

  void expect_alive() {
    HttpClient c = client();
    ASSERT_TRUE(c.get("/health"));
    EXPECT_EQ(c.answer().status, 200);
    ASSERT_TRUE(c.post(kChat, chat_body()));
    EXPECT_EQ(c.answer().status, 200);
  }

  HttpServerOptions http_options;
  std::optional<ScriptedService> served;
  std::optional<HttpServer> http;
};

TEST_F(Faults, ClientsThatVanishMidStreamFreeTheEngine) {
  start(paced(500));
  for (const bool by_reset : {false, true}) {
    HttpClient c = client();
    ASSERT_TRUE(c.post(kChat, kLongStream));
    EXPECT_NE(c.read_until("data: {"), "");
    EXPECT_NE(c.read_until("data: {"), "");
    by_reset ? c.reset() : c.close();
    EXPECT_TRUE(engine().wait_cancelled(by_reset ? 2 : 1));
    EXPECT_TRUE(engine().wait_idle());
  }
  HttpClient whole = client();  // one that waits for a whole answer
  ASSERT_TRUE(whole.post(kChat, chat_body(R"(,"ignore_eos":true,"max_tokens":100000,"n":3)")));
  EXPECT_TRUE(engine().wait_submitted(5));
  whole.close();
  EXPECT_TRUE(engine().wait_cancelled(5));
  EXPECT_TRUE(engine().wait_idle());
  expect_alive();
}

TEST_F(Faults, ReadersThatDoNotReadFreeTheEngine) {
  http_options.max_unsent_bytes = 64 << 10;
  // An engine without a pace would write its 100,000 tokens before a busy machine's server has seen
  // that nobody reads them; at this pace it takes a minute.
  start(paced(50));
  HttpClient c = client(4096);
  ASSERT_TRUE(c.post(kChat, chat_body(R"(,"stream":true,"ignore_eos":true,"max_tokens":1000000)")));
  EXPECT_TRUE(engine().wait_cancelled(1));
  EXPECT_TRUE(engine().wait_idle());
  expect_alive();
}

TEST_F(Faults, BodiesThatAreNoRequests) {
  start();
  const std::string deep(100000, '[');
  std::string deep_object;
  for (int i = 0; i < 20000; ++i) deep_object += "{\"a\":";
  const std::vector<std::string> bodies = {
      "",
      "{",
      "[]",
      "null",
      "1e999",
      "\"text\"",
      "{\"messages\":",
      "{\"messages\":[]}",
      "{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\xfe\"}]}",
      "{\"prompt\":\"\xc3\x28\"}",
      "{\"input\":\"\xed\xa0\x80\"}",
      std::string(3, '\0'),
      "{\"messages\":{\"a\":1}}",
      "{\"model\":7}",
      "{\"messages\":" + deep,
      "{\"messages\":" + deep_object,
      "{\"messages\":[{\"role\":\"user\",\"content\":" + deep};
  HttpClient c = client();
  for (const char* path :
       {kChat, "/v1/completions", "/v1/responses", "/v1/messages", "/tokenize", "/detokenize"}) {
    for (const std::string& body : bodies) {
      ASSERT_TRUE(c.post(path, body));
      const HttpAnswer a = c.answer();
      EXPECT_EQ(a.status, 400) << path << " " << body.substr(0, 60) << "\n" << a.body;
      EXPECT_NE(a.body.find("\"error\""), std::string::npos);
    }
  }
  expect_alive();
}

TEST_F(Faults, Garbage) {
  start();
  std::mt19937 random(7);
  for (int i = 0; i < 200; ++i) {
    std::string bytes;
    if (i % 3 == 1) bytes = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n";
    if (i % 3 == 2) bytes = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    const size_t n = random() % 3000;
    for (size_t k = 0; k < n; ++k) bytes += static_cast<char>(random());
    HttpClient c = client();
    c.say(bytes);
    c.end_input();
    const std::string said = c.read_to_end();  // an error, or nothing for half a request
    EXPECT_TRUE(said.empty() || said.starts_with("HTTP/1.1 4") || said.starts_with("HTTP/1.1 5"))
        << said;
  }
  expect_alive();
}

TEST_F(Faults, HugeHeadsAndBodies) {
  http_options.max_body_bytes = 1 << 20;
  start();
  HttpClient head = client();
  head.say("GET /health HTTP/1.1\r\nHost: x\r\nA: " + std::string(1 << 20, 'a'));
  EXPECT_EQ(head.answer().status, 431);
  for (const char* path : {kChat, "/v1/messages"}) {
    HttpClient body = client();
    ASSERT_TRUE(body.say(std::string("POST ") + path +
                         " HTTP/1.1\r\nHost: x\r\nContent-Length: 1099511627776\r\n\r\n{"));
    const HttpAnswer a = body.answer();
    EXPECT_EQ(a.status, 413);
    EXPECT_NE(a.body.find(path == kChat ? "invalid_request_error" : "request_too_large"),
              std::string::npos);
  }
  expect_alive();
}

TEST_F(Faults, PipelinedAnswersKeepTheirOrder) {
  start(paced(100));
  HttpClient c = client();
  ASSERT_TRUE(c.post(kChat, chat_body(R"(,"stream":true,"max_tokens":5)")));
  ASSERT_TRUE(c.get("/health"));
  ASSERT_TRUE(c.post(kChat, chat_body(R"(,"max_tokens":5)")));
  EXPECT_NE(c.answer().body.find("data: [DONE]"), std::string::npos);
  EXPECT_EQ(c.answer().body.find("choices"), std::string::npos);
  EXPECT_NE(c.answer().body.find("\"choices\""), std::string::npos);
}

TEST_F(Faults, FullQueuesSayWhenToComeBack) {
  ScriptedEngine::Options o;
  o.by_hand = true;
  o.max_queue = 2;
  start(o);
  HttpClient first = client(), second = client(), third = client();
  ASSERT_TRUE(first.post(kChat, chat_body()));
  ASSERT_TRUE(second.post(kChat, chat_body()));
  EXPECT_TRUE(engine().wait_submitted(2));
  ASSERT_TRUE(third.post(kChat, chat_body()));
  const HttpAnswer busy = third.answer();
  EXPECT_EQ(busy.status, 429);
  EXPECT_EQ(busy.header("Retry-After"), "1");
  EXPECT_NE(busy.body.find("rate_limit_error"), std::string::npos);
  engine().advance(1000);
  EXPECT_EQ(first.answer().status, 200);
  EXPECT_EQ(second.answer().status, 200);
}

TEST_F(Faults, AnEngineThatFailsEndsEveryStreamWithAnError) {
  start(paced(200));
  std::vector<HttpClient> clients;
  for (int i = 0; i < 8; ++i) {
    clients.push_back(client());
    ASSERT_TRUE(clients.back().post(kChat, kLongStream));
    EXPECT_NE(clients.back().read_until("\r\n\r\n"), "");
  }
  HttpClient whole = client();
  ASSERT_TRUE(whole.post(kChat, chat_body(R"(,"ignore_eos":true,"max_tokens":100000)")));
  EXPECT_TRUE(engine().wait_submitted(9));
  engine().fail_all("the device is gone");
  for (HttpClient& c : clients) {
    const std::string rest = c.read_until("0\r\n\r\n");
    EXPECT_NE(rest.find("\"error\""), std::string::npos);
    EXPECT_TRUE(rest.ends_with("0\r\n\r\n"));
  }
  EXPECT_GE(whole.answer().status, 500);
  HttpClient later = client();
  ASSERT_TRUE(later.post(kChat, chat_body()));
  EXPECT_EQ(later.answer().status, 503);
  ASSERT_TRUE(later.get("/health"));
  EXPECT_EQ(later.answer().status, 503);
}

TEST_F(Faults, AStopUnderLoadEndsEveryStreamWithAnError) {
  start(paced(200));
  std::vector<HttpClient> clients;
  std::vector<std::string> paths;
  for (const char* path : {kChat, "/v1/completions", "/v1/responses", "/v1/messages"})
    for (int i = 0; i < 5; ++i) {
      clients.push_back(client());
      paths.emplace_back(path);
      const std::string input = path == std::string("/v1/responses") ? R"("input":"hello")"
                                : path == std::string("/v1/completions")
                                    ? R"("prompt":"hello")"
                                    : R"("messages":[{"role":"user","content":"hello"}])";
      const std::string limit =
          path == std::string("/v1/responses") ? "max_output_tokens" : "max_tokens";
      ASSERT_TRUE(clients.back().post(path, "{" + input + R"(,"model":"small","stream":true,)" +
                                                R"("ignore_eos":true,")" + limit + "\":100000}"));
      EXPECT_NE(clients.back().read_until("data: {"), "") << path;
    }
  // A script ends by itself where ignore_eos is not known: these streams may be complete already.
  http->stop(0);
  // How each protocol ends a stream: with an error, or whole.
  const std::map<std::string, std::pair<const char*, const char*>> ends = {
      {kChat, {R"(data: {"error":{)", "data: [DONE]"}},
      {"/v1/completions", {R"(data: {"error":{)", "data: [DONE]"}},
      {"/v1/responses", {"event: response.failed", "event: response.completed"}},
      {"/v1/messages", {"event: error", "event: message_stop"}}};
  for (size_t i = 0; i < clients.size(); ++i) {
    const std::string rest = clients[i].read_to_end();
    const std::string last = rest.substr(rest.size() - std::min<size_t>(rest.size(), 300));
    EXPECT_TRUE(rest.ends_with("0\r\n\r\n")) << last;
    const auto [failed, whole] = ends.at(paths[i]);
    EXPECT_TRUE(rest.find(failed) != std::string::npos || rest.find(whole) != std::string::npos)
        << paths[i] << ": " << last;
  }
  EXPECT_TRUE(engine().wait_idle());
}

// Opens `count` connections, half of which ask something before they go idle; asks on some idle
// ones, says by a byte into `ready` that all are there, and leaves when `leave` is closed.
// What failed, or 0.
int crowd(int port, int count, int ready, int leave) {
  std::vector<HttpClient> clients;
  clients.reserve(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    clients.emplace_back(port);
    if (!clients.back().connected()) return 1;
    if (i % 2 == 0 && !clients.back().get("/")) return 2;
  }
  for (int i = 0; i < count; i += 2)
    if (clients[static_cast<size_t>(i)].answer().status != 200) return 3;
  for (int i = count - 1; i >= 0; i -= 998) {
    HttpClient& idle = clients[static_cast<size_t>(i)];
    if (!idle.get("/") || idle.answer().status != 200) return 4;
  }
  char byte = 1;
  if (::write(ready, &byte, 1) != 1) return 5;
  return static_cast<int>(::read(leave, &byte, 1));
}

// As many connections as the limit of open files allows, ten thousand at most. The clients are a
// process of their own, so that the limit holds for one end of each alone.
TEST(LongConnections, TenThousandMayStayOpen) {
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  const int count = static_cast<int>(std::min<rlim_t>(10000, limit.rlim_cur - 400));
  HttpServerOptions options;
  options.port = 0;
  options.threads = 2;
  options.idle_seconds = 600;
  HttpServer server(options,
                    [](const auto&, const auto& reply) { reply->send(200, "text/plain", "here"); });
  int ready[2], leave[2];
  ASSERT_EQ(::pipe(ready), 0);
  ASSERT_EQ(::pipe(leave), 0);
  // The port is taken and no thread runs yet.
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::close(ready[0]);
    ::close(leave[1]);
    char byte;
    if (::read(leave[0], &byte, 1) != 1) ::_exit(6);
    ::_exit(crowd(server.port(), count, ready[1], leave[0]));
  }
  ::close(ready[1]);
  ::close(leave[0]);
  server.start();
  char byte = 1;
  ASSERT_EQ(::write(leave[1], &byte, 1), 1);
  EXPECT_EQ(::read(ready[0], &byte, 1), 1) << "the clients gave up";
  EXPECT_EQ(server.connections(), count);
  RecordProperty("connections", count);
  ::close(leave[1]);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << "step " << WEXITSTATUS(status) << " of the clients failed";
  server.stop(0);
  EXPECT_EQ(server.connections(), 0);
  ::close(ready[0]);
}

}  // namespace
}  // namespace fathom::server
