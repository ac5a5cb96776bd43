// OpenAI's routes over an engine that plays scripts, with the bundled model's tokenizer.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/generation.h"
#include "server/service.h"
#include "support/fake_reply.h"
#include "support/scripted_engine.h"
#include "support/sse_events.h"
#include "text/python_json.h"

namespace fathom::server {

class OpenAiTest : public ::testing::Test {
 protected:
  using Script = fathom::test::Script;
  using ScriptedEngine = fathom::test::ScriptedEngine;

  static const Tokenizer& tokenizer() {
    static const Tokenizer shared =
        Tokenizer::from_folder(std::string(FATHOM_SOURCE_DIR) + "/models/small");
    return shared;
  }
  static int32_t eos() { return *tokenizer().added_id_of("<｜end▁of▁sentence｜>"); }

  static ServiceOptions service_options(Encoding encoding) {
    ServiceOptions o;
    o.model_names = {"fathom-small", "other-name"};
    o.created = 1700000000;
    o.encoding = encoding;
    o.vocab = tokenizer().vocab_size();
    o.stop_ids = {eos()};
    o.fingerprint = "fp_test";
    return o;
  }

  explicit OpenAiTest(ScriptedEngine::Options engine_options = {},
                      Encoding encoding = Encoding::v31)
      : engine([this](const Request& r) { return author(r); }, engine_options),
        constraints(tokenizer(), encoding, {eos()}),
        metrics("fathom-small"),
        selections(1 << 20),
        service{engine, tokenizer(), constraints, metrics, selections, service_options(encoding)},
        router({}, metrics) {
    add_openai_routes(router, service);
    add_utility_routes(router, service);
  }

  // The next requests are answered with this text, as the tokenizer cuts it; markers in it are
  // control tokens.
  void answer_with(const std::string& text) { answer_with_ids(tokenizer().encode(text)); }
  void answer_with_ids(std::vector<int32_t> ids) {
    author = [this, ids = std::move(ids)](const Request& r) {
      requests.push_back(r);
      requests.back().sink = nullptr;
      return Script{ids};
    };
  }

  std::shared_ptr<FakeReply> start(const std::string& method, const std::string& path,
                                   const std::string& body) {
    auto request = std::make_shared<HttpRequest>();
    request->method = method;
    request->path = path;
    request->headers["host"] = "127.0.0.1";
    request->body = body;
    auto reply = std::make_shared<FakeReply>();
    router.handle(request, reply);
    return reply;
  }
  std::shared_ptr<FakeReply> post(const std::string& path, const std::string& body) {
    auto reply = start("POST", path, body);
    EXPECT_TRUE(reply->run_until_complete()) << body;
    return reply;
  }
  std::shared_ptr<FakeReply> get(const std::string& path) {
    auto reply = start("GET", path, "");
    EXPECT_TRUE(reply->run_until_complete()) << path;
    return reply;
  }

  // The answer as JSON, with what differs from call to call replaced: id "ID", created 0.
  static OrderedJson steady(OrderedJson json) {
    if (json.contains("id")) json["id"] = "ID";
    if (json.contains("created")) json["created"] = 0;
    return json;
  }
  OrderedJson answer(const std::string& path, const std::string& body) {
    const auto reply = post(path, body);
    EXPECT_EQ(reply->status(), 200) << reply->body();
    EXPECT_EQ(reply->content_type(), "application/json");
    return steady(OrderedJson::parse(reply->body()));
  }
  // The chunks of a stream; that it ends in [DONE] is checked.
  std::vector<OrderedJson> chunks_of(const FakeReply& reply) {
    std::string body = reply.body();
    const std::string done = "data: [DONE]\n\n";
    EXPECT_TRUE(body.ends_with(done)) << body;
    if (body.ends_with(done)) body.resize(body.size() - done.size());
    std::vector<OrderedJson> chunks = fathom::test::sse_events(body);
    for (OrderedJson& chunk : chunks) chunk = steady(std::move(chunk));
    return chunks;
  }
  std::vector<OrderedJson> stream(const std::string& path, const std::string& body) {
    const auto reply = post(path, body);
    EXPECT_EQ(reply->status(), 200) << reply->body();
    EXPECT_THAT(reply->content_type(), ::testing::StartsWith("text/event-stream"));
    return chunks_of(*reply);
  }
  // The error of a refused request, after its status has been checked.
  OrderedJson refusal(const std::string& path, const std::string& body, int status = 400) {
    const auto reply = post(path, body);
    EXPECT_EQ(reply->status(), status) << body << "\n" << reply->body();
    OrderedJson json = OrderedJson::parse(reply->body(), nullptr, false);
    EXPECT_TRUE(json.is_object() && json.contains("error")) << reply->body();
    return json.is_object() ? json.value("error", OrderedJson::object()) : OrderedJson::object();
  }

  ScriptedEngine::Author author = [](const Request&) { return Script{}; };
  std::vector<Request> requests;  // that the engine was given, in order, since answer_with
  ScriptedEngine engine;
  ConstraintFactory constraints;
  Metrics metrics;
  SelectionStore selections;
  Service service;
  Router router;
};

class OpenAiV32Test : public OpenAiTest {
 protected:
  OpenAiV32Test() : OpenAiTest({}, Encoding::v32) {}
};

class OpenAiByHandTest : public OpenAiTest {
 protected:
  static ScriptedEngine::Options by_hand() {
    ScriptedEngine::Options o;
    o.by_hand = true;
    return o;
  }
  OpenAiByHandTest() : OpenAiTest(by_hand()) {}
};

}  // namespace fathom::server
