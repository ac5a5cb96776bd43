// The transport alone, over real sockets: handlers of the test's own.
#include "server/http/http_server.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "base/error.h"
#include "server/http_client.h"

namespace fathom::server {
namespace {

// Something that happens on another thread.
class Event {
 public:
  void set() {
    std::lock_guard lock(mutex_);
    set_ = true;
    changed_.notify_all();
  }
  // False when it did not come within a minute.
  bool wait() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::minutes(1), [&] { return set_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool set_ = false;
};

// Replies that handlers have put aside.
class Shelf {
 public:
  void put(std::shared_ptr<HttpReply> reply) {
    std::lock_guard lock(mutex_);
    replies_.push_back(std::move(reply));
    changed_.notify_all();
  }
  std::shared_ptr<HttpReply> take() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, std::chrono::minutes(1), [&] { return !replies_.empty(); }))
      return nullptr;
    auto reply = std::move(replies_.front());
    replies_.erase(replies_.begin());
    return reply;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::shared_ptr<HttpReply>> replies_;
};

class HttpServerTest : public ::testing::Test {
 protected:
  using Request = std::shared_ptr<const HttpRequest>;
  using Reply = std::shared_ptr<HttpReply>;

  HttpServerTest() {
    options.port = 0;
    options.threads = 2;
    on["/echo"] = [](const Request& request, const Reply& reply) {
      reply->send(200, "text/plain", request->method + " " + request->body);
    };
    on["/shelf"] = [this](const Request&, const Reply& reply) { shelf.put(reply); };
  }

  void start() {
    server.emplace(options, [this](Request request, Reply reply) {
      if (request->failure)
        return reply->send(request->failure->status, "text/plain", request->failure->message);
      const auto it = on.find(request->path);
      if (it == on.end()) return reply->send(404, "text/plain", "no " + request->path);
      it->second(std::move(request), std::move(reply));
    });
    server->start();
  }
  HttpClient client(int receive_buffer = 0) { return HttpClient(server->port(), receive_buffer); }

  Shelf shelf;
  std::map<std::string, HttpHandler> on;
  HttpServerOptions options;
  std::optional<HttpServer> server;  // ends before what its handlers use
};

TEST_F(HttpServerTest, KeepsConnectionsAndAnswersPipelinedRequestsInOrder) {
  start();
  HttpClient c = client();
  std::string all;
  for (int i = 0; i < 100; ++i) {
    const std::string body = "n" + std::to_string(i);
    all += "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: " + std::to_string(body.size()) +
           "\r\n\r\n" + body;
  }
  ASSERT_TRUE(c.say(all));
  for (int i = 0; i < 100; ++i) EXPECT_EQ(c.answer().body, "POST n" + std::to_string(i));
  ASSERT_TRUE(c.get("/nowhere"));
  EXPECT_EQ(c.answer().status, 404);
}

TEST_F(HttpServerTest, PipelinedRequestsWaitForTheAnswerInFrontOfThem) {
  start();
  HttpClient c = client();
  ASSERT_TRUE(c.get("/shelf"));
  ASSERT_TRUE(c.get("/echo"));
  shelf.take()->send(200, "text/plain", "first");
  EXPECT_EQ(c.answer().body, "first");
  EXPECT_EQ(c.answer().body, "GET ");
}

TEST_F(HttpServerTest, ManyPipelinedBytesAreReadOnlyAsTheyAreAnswered) {
  start();
  HttpClient c = client();
  ASSERT_TRUE(c.get("/shelf"));
  const std::string body(5000, 'b');
  std::thread writer([&] {
    for (int i = 0; i < 400; ++i) EXPECT_TRUE(c.post("/echo", body));
  });
  shelf.take()->send(200, "text/plain", "first");
  EXPECT_EQ(c.answer().body, "first");
  for (int i = 0; i < 400; ++i) ASSERT_EQ(c.answer().body.size(), body.size() + 5);
  writer.join();
}

TEST_F(HttpServerTest, HeadHasTheLengthAndNoBody) {
  start();
  HttpClient c = client();
  ASSERT_TRUE(c.say("HEAD /echo HTTP/1.1\r\nHost: x\r\n\r\n"));
  const HttpAnswer a = c.answer(true);
  EXPECT_EQ(a.header("Content-Length"), "5");
  ASSERT_TRUE(c.get("/echo"));
  EXPECT_EQ(c.answer().body, "GET ");
}

TEST_F(HttpServerTest, OldClientsGetTheEndOfTheConnection) {
  on["/stream"] = [](const Request&, const Reply& reply) {
    reply->begin(200, "text/event-stream");
    reply->write("one ");
    reply->write("two");
    reply->end();
  };
  start();
  HttpClient c = client();
  ASSERT_TRUE(c.say("GET /stream HTTP/1.0\r\n\r\n"));
  const HttpAnswer a = c.answer();
  EXPECT_EQ(a.header("Transfer-Encoding"), "");
  EXPECT_EQ(a.body, "one two");
  HttpClient again = client();
  ASSERT_TRUE(again.say("GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
  EXPECT_EQ(again.answer().header("Connection"), "keep-alive");
  ASSERT_TRUE(again.say("GET /echo HTTP/1.0\r\n\r\n"));
  EXPECT_EQ(again.answer().body, "GET ");
  EXPECT_EQ(again.read_to_end(), "");
}

TEST_F(HttpServerTest, AsksForBodiesThatClientsHoldBack) {
  start();
  HttpClient c = client();
  ASSERT_TRUE(
      c.say("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n"
            "Expect: 100-continue\r\n\r\n"));
  EXPECT_EQ(c.answer().status, 100);
  ASSERT_TRUE(c.say("abc"));
  EXPECT_EQ(c.answer().body, "POST abc");
  // One that would be refused is not asked for.
  ASSERT_TRUE(
      c.say("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n"
            "Expect: 100-continue\r\n\r\n"));
  EXPECT_EQ(c.answer().status, 413);
  EXPECT_EQ(c.read_to_end(), "");
}

TEST_F(HttpServerTest, StreamsGoOutPieceByPiece) {
  start();
  HttpClient c = client();
  ASSERT_TRUE(c.get("/shelf"));
  const Reply reply = shelf.take();
  reply->begin(200, "text/event-stream", {{"X-Split", "a\r\nInjected: b"}});
  EXPECT_EQ(reply->status(), 200);
  const std::string head = c.read_until("\r\n\r\n");
  EXPECT_NE(head.find("Transfer-Encoding: chunked"), std::string::npos);
  EXPECT_NE(head.find("X-Split: a  Injected: b\r\n"), std::string::npos);
  for (const char* piece : {"first", "second"}) {
    reply->write(piece);
    EXPECT_NE(c.read_until(piece).find(piece), std::string::npos);
  }
  reply->write("");  // is not the end
  reply->end();
  reply->end();
  reply->write("after the end");
  EXPECT_EQ(c.read_until("0\r\n\r\n"), "\r\n0\r\n\r\n");
  ASSERT_TRUE(c.get("/echo"));
  EXPECT_EQ(c.answer().body, "GET ");
}

TEST_F(HttpServerTest, TasksOfAReplyRunInOrderAndOneAtATime) {
  start();
  HttpClient c = client();
  ASSERT_TRUE(c.get("/shelf"));
  const Reply reply = shelf.take();
  std::string order;  // unguarded: the promise is what is tested, and TSan watches
  for (int i = 0; i < 100; ++i)
    reply->post([&order, i] { order += static_cast<char>('a' + i % 26); });
  reply->post([&, reply] { reply->send(200, "text/plain", order); });
  const HttpAnswer a = c.answer();
  ASSERT_EQ(a.body.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(a.body[static_cast<size_t>(i)], 'a' + i % 26);
}

TEST_F(HttpServerTest, DelayedTasksReplaceEachOther) {
  start();
  HttpClient c = client();
  ASSERT_TRUE(c.get("/shelf"));
  const Reply reply = shelf.take();
  reply->post_after(1000, [reply] { reply->send(200, "text/plain", "much too late"); });
  reply->post_after(0.01, [reply] { reply->send(200, "text/plain", "in time"); });
  EXPECT_EQ(c.answer().body, "in time");
}

TEST_F(HttpServerTest, ForgottenRepliesAreNoticed) {
  on["/forget"] = [](const Request&, const Reply&) {};
  on["/throw"] = [](const Request&, const Reply&) { throw Error("on purpose"); };
  on["/half"] = [](const Request&, const Reply& reply) {
    reply->begin(200, "text/plain");
    reply->write("half");
  };
  on["/bad-task"] = [](const Request&, const Reply& reply) {
    reply->post([reply] { throw Error("on purpose"); });
  };
  start();
  HttpClient c = client();
  for (const char* path : {"/forget", "/throw", "/bad-task"}) {
    ASSERT_TRUE(c.get(path));
    EXPECT_EQ(c.answer().status, 500) << path;
  }
  ASSERT_TRUE(c.get("/half"));
  const HttpAnswer half = c.answer();
  EXPECT_EQ(half.body, "half");
  EXPECT_TRUE(half.cut_off);
}

void leave(HttpClient& client, bool by_reset) {
  if (by_reset)
    client.reset();
  else
    client.close();
}

TEST_F(HttpServerTest, ClientsThatLeaveAreNoticedWhileTheAnswerIsMade) {
  start();
  for (const bool by_reset : {false, true}) {
    HttpClient c = client();
    ASSERT_TRUE(c.get("/shelf"));
    const Reply reply = shelf.take();
    Event left;
    reply->on_abandoned([&] { left.set(); });
    leave(c, by_reset);
    EXPECT_TRUE(left.wait());
    // Whoever hears of it late hears of it all the same; writing does nothing.
    Event late;
    reply->on_abandoned([&] { late.set(); });
    EXPECT_TRUE(late.wait());
    reply->begin(200, "text/plain");
    reply->write("to nobody");
    reply->end();
  }
}

TEST_F(HttpServerTest, ClientsThatLeaveBehindUnreadRequestsAreNoticed) {
  start();
  for (const bool by_reset : {false, true}) {
    HttpClient c = client();
    ASSERT_TRUE(c.get("/shelf"));
    const Reply reply = shelf.take();
    Event left;
    reply->on_abandoned([&] { left.set(); });
    // More than is read ahead of requests behind the one under way.
    for (int i = 0; i < 5; ++i) ASSERT_TRUE(c.post("/echo", std::string(8 << 10, 'b')));
    leave(c, by_reset);
    EXPECT_TRUE(left.wait());
  }
}

TEST_F(HttpServerTest, AnswersWithoutABodyNameNoLength) {
  on["/known"] = [](const Request&, const Reply& reply) { reply->send(304, "text/html", ""); };
  on["/none"] = [](const Request&, const Reply& reply) { reply->send(204, "", ""); };
  start();
  HttpClient c = client();
  for (const char* path : {"/known", "/none"}) {
    ASSERT_TRUE(c.get(path));
    const HttpAnswer a = c.answer();
    EXPECT_EQ(a.header("Content-Length"), "") << a.head;
    EXPECT_EQ(a.header("Transfer-Encoding"), "") << a.head;
  }
  ASSERT_TRUE(c.get("/echo"));
  EXPECT_EQ(c.answer().body, "GET ");
}

TEST_F(HttpServerTest, NobodyIsToldOfAClientThatLeavesAfterItsAnswer) {
  start();
  HttpClient c = client();
  ASSERT_TRUE(c.get("/shelf"));
  Reply reply = shelf.take();
  std::atomic<bool> told{false};
  // The task owns the reply, as handlers' do: both must go when the answer is complete.
  std::weak_ptr<HttpReply> watched = reply;
  reply->on_abandoned([&told, reply] { told = true; });
  reply->on_stopping([&told, reply] { told = true; });
  reply->send(200, "text/plain", "done");
  reply.reset();
  EXPECT_EQ(c.answer().body, "done");
  EXPECT_TRUE(watched.expired());
  c.close();
  server->stop(0);
  EXPECT_FALSE(told);
}

TEST_F(HttpServerTest, SlowReadersAreGivenUpForWhatTheyLagBehind) {
  options.max_unsent_bytes = 256 << 10;
  start();
  HttpClient c = client(4096);
  ASSERT_TRUE(c.get("/shelf"));
  const Reply reply = shelf.take();
  Event given_up;
  reply->on_abandoned([&] { given_up.set(); });
  reply->begin(200, "text/event-stream");
  // More than the limit and all that kernels hold back.
  for (int i = 0; i < 1000; ++i) reply->write(std::string(64 << 10, 'x'));
  EXPECT_TRUE(given_up.wait());
}

TEST_F(HttpServerTest, SlowReadersAreGivenUpForTheTimeTheyTake) {
  options.write_seconds = 0.2;
  start();
  HttpClient c = client(4096);
  ASSERT_TRUE(c.get("/shelf"));
  const Reply reply = shelf.take();
  Event given_up;
  reply->on_abandoned([&] { given_up.set(); });
  reply->begin(200, "text/event-stream");
  reply->write(std::string(3 << 20, 'x'));  // below the limit, beyond the kernel's buffers
  EXPECT_TRUE(given_up.wait());
}

TEST_F(HttpServerTest, LargeAnswersReachPatientClients) {
  const std::string large(20 << 20, 'y');
  on["/large"] = [&](const Request&, const Reply& reply) { reply->send(200, "text/plain", large); };
  start();
  HttpClient c = client();
  ASSERT_TRUE(c.get("/large"));
  EXPECT_EQ(c.answer().body, large);
}

TEST_F(HttpServerTest, RequestsThatDoNotArriveGet408) {
  options.header_seconds = 0.05;
  start();
  for (const char* part : {"GET /echo HT", "GET /echo HTTP/1.1\r\nHost: x\r\n",
                           "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel"}) {
    HttpClient c = client();
    ASSERT_TRUE(c.say(part));
    EXPECT_EQ(c.answer().status, 408) << part;
    EXPECT_EQ(c.read_to_end(), "");
  }
}

TEST_F(HttpServerTest, IdleConnectionsAreClosed) {
  options.idle_seconds = 1;  // enough for `once` to ask before it counts as idle
  start();
  HttpClient never = client();
  EXPECT_EQ(never.read_to_end(), "");
  HttpClient once = client();
  ASSERT_TRUE(once.get("/echo"));
  EXPECT_EQ(once.answer().status, 200);
  EXPECT_EQ(once.read_to_end(), "");
}

TEST_F(HttpServerTest, HalfRequestsAreForgotten) {
  start();
  for (const char* part : {"", "G", "GET / HTTP/1.1\r\n",
                           "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel"}) {
    HttpClient c = client();
    ASSERT_TRUE(c.say(part));
    c.end_input();
    EXPECT_EQ(c.read_to_end(), "");
  }
}

TEST_F(HttpServerTest, AClientThatEndedItsSideGetsTheAnswersThatAreReady) {
  start();
  HttpClient c = client();
  ASSERT_TRUE(c.get("/echo"));
  ASSERT_TRUE(c.get("/nowhere"));
  c.end_input();
  EXPECT_EQ(c.answer().status, 200);
  EXPECT_EQ(c.answer().status, 404);
  EXPECT_EQ(c.read_to_end(), "");
}

// What a client that has closed its side is sent to find out whether it still reads.
constexpr const char* kProbe = "HTTP/1.1 102 Processing\r\n\r\n";

TEST_F(HttpServerTest, AClientThatEndedItsSideGetsTheAnswerThatTakesTime) {
  start();
  HttpClient c = client();
  ASSERT_TRUE(c.get("/shelf"));
  c.end_input();
  const Reply reply = shelf.take();
  EXPECT_EQ(c.read_until("\r\n\r\n"), kProbe);
  // Longer than the server waits for the reset of a client that has left.
  std::this_thread::sleep_for(std::chrono::milliseconds(1300));
  reply->send(200, "text/plain", "late");
  EXPECT_EQ(c.answer().body, "late");
  EXPECT_EQ(c.read_to_end(), "");
}

TEST_F(HttpServerTest, AClientThatEndedItsSideGetsAStreamToItsEnd) {
  start();
  HttpClient c = client();
  ASSERT_TRUE(c.get("/shelf"));
  const Reply reply = shelf.take();
  reply->begin(200, "text/event-stream");
  reply->keep_alive(":\n\n");
  reply->write("one");
  c.end_input();
  std::this_thread::sleep_for(std::chrono::milliseconds(1300));
  reply->write("two");
  reply->end();
  EXPECT_EQ(c.answer().body, "one:\n\ntwo");
}

TEST_F(HttpServerTest, AClientOfHttp10IsSentNoInterimAnswer) {
  start();
  HttpClient c = client();
  ASSERT_TRUE(c.say("GET /shelf HTTP/1.0\r\n\r\n"));
  c.end_input();
  const Reply reply = shelf.take();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  reply->send(200, "text/plain", "late");
  EXPECT_EQ(c.answer().body, "late");
}

TEST_F(HttpServerTest, AQuietStreamSaysThatItLives) {
  options.quiet_seconds = 0.2;
  start();
  HttpClient c = client();
  ASSERT_TRUE(c.get("/shelf"));
  const Reply reply = shelf.take();
  reply->begin(200, "text/event-stream");
  reply->keep_alive(": q\n\n");
  const auto begin = std::chrono::steady_clock::now();
  c.read_until(": q\n\n");
  c.read_until(": q\n\n");
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  EXPECT_GT(took.count(), 0.3);
  // One that speaks says nothing else.
  for (int i = 0; i < 30; ++i) {
    reply->write("x");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  reply->end();
  const std::string rest = c.read_until("0\r\n\r\n");
  EXPECT_EQ(std::count(rest.begin(), rest.end(), 'x'), 30);
  EXPECT_EQ(rest.find(": q"), std::string::npos);
}

TEST_F(HttpServerTest, CompressedBodiesAreDecoded) {
  options.max_body_bytes = 1 << 20;
  start();
  HttpClient c = client();
  const std::string hello = {'\x1f', '\x8b', '\x08', 0,      0,      0,      0,      0, 0,
                             '\x03', '\xcb', '\x48', '\xcd', '\xc9', '\xc9', '\x07', 0, '\x86',
                             '\xa6', '\x10', '\x36', '\x05', 0,      0,      0};
  ASSERT_TRUE(c.post("/echo", hello, "Content-Encoding: gzip\r\n"));
  EXPECT_EQ(c.answer().body, "POST hello");
  ASSERT_TRUE(c.post("/echo", "hello", "Content-Encoding: br\r\n"));
  EXPECT_EQ(c.answer().status, 415);
  ASSERT_TRUE(c.post("/echo", "hello", "Content-Encoding: gzip\r\n"));
  EXPECT_EQ(c.answer().status, 400);
  ASSERT_TRUE(c.post("/echo", "hello", "Content-Encoding: identity\r\n"));
  EXPECT_EQ(c.answer().body, "POST hello");
}

TEST_F(HttpServerTest, RefusalsReachClientsThatAreStillSending) {
  options.max_body_bytes = 1 << 20;
  start();
  HttpClient c = client();
  ASSERT_TRUE(c.say("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 8388608\r\n\r\n"));
  // What is sent after the refusal is thrown away, not answered with a reset.
  const std::string block(64 << 10, 'z');
  for (int i = 0; i < 16; ++i)
    if (!c.say(block)) break;
  EXPECT_EQ(c.answer().status, 413);
}

TEST_F(HttpServerTest, BodiesThatArriveTogetherHaveALimit) {
  options.max_pending_bytes = 1 << 20;
  start();
  HttpClient beyond = client();
  beyond.post("/echo", std::string(3 << 19, 'h'));
  EXPECT_EQ(beyond.answer().status, 503);
  // What it took is given back.
  HttpClient within = client();
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(within.post("/echo", std::string(3 << 18, 'h')));
    EXPECT_EQ(within.answer().status, 200);
  }
}

// Holds the handlers of large bodies until it is told otherwise, and at the latest when it ends.
class Gate {
 public:
  ~Gate() { open.set(); }
  Event reached, open;
};

TEST_F(HttpServerTest, SmallRequestsDoNotWaitForHandlersOfLargeBodies) {
  Gate gate;
  options.threads = 1;
  on["/slow"] = [&](const Request& request, const Reply& reply) {
    gate.reached.set();
    EXPECT_TRUE(gate.open.wait());
    reply->send(200, "text/plain", std::to_string(request->body.size()));
  };
  start();
  HttpClient large = client(), small = client();
  ASSERT_TRUE(large.post("/slow", std::string(1 << 20, 'l')));
  ASSERT_TRUE(large.get("/echo"));  // waits, being behind it
  EXPECT_TRUE(gate.reached.wait());
  ASSERT_TRUE(small.get("/echo"));
  EXPECT_EQ(small.answer().body, "GET ");
  gate.open.set();
  EXPECT_EQ(large.answer().body, "1048576");
  EXPECT_EQ(large.answer().body, "GET ");
  server.reset();
}

TEST_F(HttpServerTest, TasksWaitForTheHandlerOfALargeBody) {
  Event handled;
  std::string order;  // unguarded: the promise is what is tested, and TSan watches
  on["/tasks"] = [&](const Request&, const Reply& reply) {
    // One after the other from another thread, which ends before the handler does.
    std::thread([&] {
      reply->post([&order] { order += "first "; });
      reply->post_after(0, [&order, reply] { reply->send(200, "text/plain", order + "timer"); });
      reply->post([&order] { order += "second "; });
    }).join();
    order += "handler ";
  };
  start();
  HttpClient c = client();
  for (int i = 0; i < 20; ++i) {
    order.clear();
    ASSERT_TRUE(c.post("/tasks", std::string(1 << 20, 'l')));
    EXPECT_EQ(c.answer().body, "handler first second timer");
  }
}

TEST_F(HttpServerTest, LargeBodiesInLineCountAsPending) {
  Gate gate;
  options.large_body_threads = 1;
  options.max_pending_bytes = 1 << 20;
  on["/slow"] = [&](const Request&, const Reply& reply) {
    gate.reached.set();
    EXPECT_TRUE(gate.open.wait());
    reply->send(200, "text/plain", "done");
  };
  start();
  const std::string body(3 << 18, 'l');
  HttpClient first = client(), second = client();
  ASSERT_TRUE(first.post("/slow", body));
  EXPECT_TRUE(gate.reached.wait());
  second.post("/slow", body);
  EXPECT_EQ(second.answer().status, 503);
  gate.open.set();
  EXPECT_EQ(first.answer().status, 200);
  ASSERT_TRUE(first.post("/slow", body));
  EXPECT_EQ(first.answer().status, 200);
  server.reset();
}

TEST_F(HttpServerTest, HandlersOfLargeBodiesMayForgetAndThrow) {
  on["/forget"] = [](const Request&, const Reply&) {};
  on["/throw"] = [](const Request&, const Reply&) { throw Error("on purpose"); };
  start();
  HttpClient c = client();
  for (const char* path : {"/forget", "/throw", "/forget"}) {
    ASSERT_TRUE(c.post(path, std::string(1 << 20, 'l')));
    EXPECT_EQ(c.answer().status, 500) << path;
  }
  // A client that ended its side gets what the handler says at once.
  ASSERT_TRUE(c.post("/echo", std::string(1 << 20, 'l')));
  c.end_input();
  EXPECT_EQ(c.answer().body.size(), (1u << 20) + 5);
  EXPECT_EQ(c.read_to_end(), "");
}

TEST_F(HttpServerTest, AStopWaitsForTheHandlerOfALargeBodyAndForgetsTheLine) {
  Gate gate;
  options.large_body_threads = 1;
  std::atomic<int> handled{0};
  on["/slow"] = [&](const Request&, const Reply& reply) {
    ++handled;
    gate.reached.set();
    EXPECT_TRUE(gate.open.wait());
    reply->send(200, "text/plain", "too late");
  };
  start();
  std::vector<HttpClient> clients;
  for (int i = 0; i < 4; ++i) {
    clients.push_back(client());
    ASSERT_TRUE(clients.back().post("/slow", std::string(1 << 20, 'l')));
  }
  EXPECT_TRUE(gate.reached.wait());
  std::thread stopper([&] { server->stop(0); });
  for (HttpClient& c : clients) c.read_to_end();  // given up: nobody tells them anything in time
  gate.open.set();
  stopper.join();
  EXPECT_EQ(handled, 1);
  EXPECT_EQ(server->connections(), 0);
  server.reset();
}

TEST_F(HttpServerTest, TooManyConnectionsAreTurnedAway) {
  options.max_connections = 2;
  start();
  HttpClient first = client(), second = client();
  ASSERT_TRUE(first.get("/echo") && second.get("/echo"));
  EXPECT_EQ(first.answer().status, 200);
  EXPECT_EQ(second.answer().status, 200);
  HttpClient third = client();
  EXPECT_EQ(third.answer().status, 503);
  first.close();
  // Its end is seen some time later: whoever asks again gets in.
  for (int status = 503; status != 200;) {
    HttpClient again = client();
    again.get("/echo");
    status = again.answer().status;
    ASSERT_TRUE(status == 200 || status == 503 || status == 0) << status;
  }
}

TEST_F(HttpServerTest, ConnectionsWaitWhileThereAreNoFileDescriptors) {
  Event said;
  options.on_problem = [&](const std::string&) { said.set(); };
  start();
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const int free = ::dup(STDERR_FILENO);  // the lowest number that is not taken
  ::close(free);
  // Enough for the client's end of a connection, and not for the server's.
  rlimit few = before;
  few.rlim_cur = static_cast<rlim_t>(free) + 1;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  HttpClient c = client();
  EXPECT_TRUE(c.connected());
  EXPECT_TRUE(said.wait());
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_TRUE(c.get("/echo"));
  EXPECT_EQ(c.answer().status, 200);
}

TEST_F(HttpServerTest, AddressesThatCannotBeHad) {
  start();
  HttpServerOptions same;
  same.port = server->port();
  const HttpHandler none = [](const Request&, const Reply&) {};
  EXPECT_THROW(HttpServer(same, none), Error);
  same.port = 0;
  same.host = "203.0.113.7";  // for documentation: nobody's
  EXPECT_THROW(HttpServer(same, none), Error);
  same.host = "no.such.host.invalid";
  EXPECT_THROW(HttpServer(same, none), Error);
  same.host = "localhost";
  same.port = 70000;
  EXPECT_THROW(HttpServer(same, none), Error);
  same.port = 0;
  HttpServer never_started(same, none);
  EXPECT_GT(never_started.port(), 0);
}

TEST_F(HttpServerTest, StopsOnceAnswersAreComplete) {
  start();
  HttpClient busy = client(), idle = client();
  ASSERT_TRUE(idle.get("/echo"));
  EXPECT_EQ(idle.answer().status, 200);
  ASSERT_TRUE(busy.get("/shelf"));
  const Reply reply = shelf.take();
  reply->begin(200, "text/plain");
  reply->write("a");
  std::thread stopper([&] { server->stop(60); });
  EXPECT_EQ(idle.read_to_end(), "");  // told to go at once
  reply->write("b");
  reply->end();
  EXPECT_EQ(busy.answer().body, "ab");
  stopper.join();
  EXPECT_EQ(server->connections(), 0);
}

TEST_F(HttpServerTest, RequestsThatAreStillArrivingAreToldOfTheStop) {
  start();
  HttpClient c = client();
  // The server asks for the body once it has read the head.
  ASSERT_TRUE(
      c.say("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"));
  EXPECT_EQ(c.answer().status, 100);
  ASSERT_TRUE(c.say("he"));
  std::thread stopper([&] { server->stop(60); });
  const HttpAnswer a = c.answer();
  EXPECT_EQ(a.status, 503);
  EXPECT_EQ(a.header("Connection"), "close");
  EXPECT_EQ(a.body, "the server is shutting down");
  EXPECT_EQ(c.read_to_end(), "");
  c.close();
  stopper.join();
}

TEST_F(HttpServerTest, AnswersThatDoNotEndAreToldAndThenCut) {
  start();
  HttpClient polite = client(), deaf = client();
  ASSERT_TRUE(polite.get("/shelf"));
  const Reply told = shelf.take();
  ASSERT_TRUE(deaf.get("/shelf"));
  const Reply kept = shelf.take();
  told->begin(200, "text/plain");
  told->on_stopping([told] {
    told->write("error: stopping");
    told->end();
  });
  kept->begin(200, "text/plain");
  Event cut;
  kept->on_abandoned([&] { cut.set(); });
  server->stop(0);
  EXPECT_TRUE(cut.wait());
  const HttpAnswer a = polite.answer();
  EXPECT_EQ(a.body, "error: stopping");
  EXPECT_FALSE(a.cut_off);
  EXPECT_TRUE(deaf.answer().cut_off);
  // The server is gone; replies that are still held do nothing.
  server.reset();
  kept->write("late");
  kept->post([] { FAIL() << "there is nobody to run this"; });
}

TEST_F(HttpServerTest, ASecondStopShortensTheFirst) {
  start();
  HttpClient c = client();
  ASSERT_TRUE(c.get("/shelf"));
  const Reply reply = shelf.take();
  reply->on_stopping([reply] { reply->send(503, "text/plain", "stopping"); });
  std::thread patient([&] { server->stop(1e6); });
  server->stop(0);
  patient.join();
  EXPECT_EQ(c.answer().status, 503);
}

TEST(HttpServerAddress, ListensOnIpv6) {
  HttpServerOptions options;
  options.port = 0;
  options.host = "[::1]";
  std::optional<HttpServer> server;
  try {
    server.emplace(options,
                   [](const auto&, const auto& reply) { reply->send(200, "text/plain", "six"); });
  } catch (const Error& e) {
    GTEST_SKIP() << "no IPv6 here: " << e.what();
  }
  server->start();
  const int fd = ::socket(AF_INET6, SOCK_STREAM, 0);
  sockaddr_in6 to{};
  to.sin6_family = AF_INET6;
  to.sin6_port = htons(static_cast<uint16_t>(server->port()));
  to.sin6_addr = in6addr_loopback;
  EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  ::close(fd);
}

}  // namespace
}  // namespace fathom::server
