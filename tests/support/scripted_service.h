// A whole service over an engine that plays scripts, with the bundled model's tokenizer: requests
// go in as bytes, answers come out as bytes.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "server/service.h"
#include "support/fake_reply.h"
#include "support/scripted_engine.h"

namespace fathom::test {

class ScriptedService {
 public:
  using Options = server::ServiceOptions;

  explicit ScriptedService(
      void (*change)(Options&) = [](Options&) {}, ScriptedEngine::Options engine_options = {})
      : tokenizer(Tokenizer::from_folder(FATHOM_SOURCE_DIR "/models/small")),
        eos(*tokenizer.added_id_of("<｜end▁of▁sentence｜>")),
        constraints(tokenizer, Encoding::v31, {eos}),
        metrics("small"),
        selections(1 << 20),
        engine([this](const Request& request) { return play(request); }, engine_options),
        service{engine, tokenizer, constraints, metrics, selections, options(change)},
        router({}, metrics) {}

  // What the next requests are answered with: text in which markers are tokens.
  void say(const std::string& text) {
    const std::lock_guard lock(mutex_);
    script_.tokens = tokenizer.encode(text, false);
    script_.error.clear();
  }
  void fail_with(const std::string& error) {
    const std::lock_guard lock(mutex_);
    script_.error = error;
  }

  // The last request that reached the engine.
  Request last() const {
    const std::lock_guard lock(mutex_);
    return last_;
  }
  // Its prompt as text, markers included.
  std::string last_prompt() const { return tokenizer.decode(last().ids); }

  // Starts a request; run_until_complete of what is returned plays it.
  std::shared_ptr<server::FakeReply> begin(std::string method, std::string path, std::string body) {
    auto request = std::make_shared<server::HttpRequest>();
    request->method = std::move(method);
    request->path = std::move(path);
    request->body = std::move(body);
    auto reply = std::make_shared<server::FakeReply>();
    router.handle(std::move(request), reply);
    return reply;
  }
  std::shared_ptr<server::FakeReply> ask(std::string method, std::string path, std::string body) {
    auto reply = begin(std::move(method), std::move(path), std::move(body));
    EXPECT_TRUE(reply->run_until_complete());
    return reply;
  }
  std::shared_ptr<server::FakeReply> post(std::string path, std::string body) {
    return ask("POST", std::move(path), std::move(body));
  }

  const Tokenizer tokenizer;
  const int32_t eos;
  ConstraintFactory constraints;
  server::Metrics metrics;
  server::SelectionStore selections;
  ScriptedEngine engine;
  server::Service service;
  server::Router router;

 private:
  Options options(void (*change)(Options&)) const {
    Options options;
    options.model_names = {"small", "alias"};
    options.vocab = tokenizer.vocab_size();
    options.stop_ids = {eos};
    change(options);
    return options;
  }

  Script play(const Request& request) {
    const std::lock_guard lock(mutex_);
    last_ = request;
    last_.sink = nullptr;
    return script_;
  }

  mutable std::mutex mutex_;  // guards what follows
  Script script_;
  Request last_;
};

}  // namespace fathom::test
