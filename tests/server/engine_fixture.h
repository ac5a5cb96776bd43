// The service that `serve` makes, over the real engine and the bundled model, without sockets.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>

#include "model/checkpoint.h"
#include "runtime/engine.h"
#include "server/service.h"
#include "server/tokenizer_info.h"
#include "support/fake_reply.h"

namespace fathom::server {

inline const std::string kSmallModel = std::string(FATHOM_SOURCE_DIR) + "/models/small";

class EngineFixture : public ::testing::Test {
 protected:
  static EngineOptions engine_options(int speculative_tokens) {
    EngineOptions o;
    o.compute.speculative_tokens = speculative_tokens;
    o.compute.mtp = speculative_tokens > 0;
    o.regulate_drafts = false;
    o.compute.threads = 1;
    o.compute.context = 2048;
    o.compute.sequences = 4;
    o.keep_prefixes = true;
    o.keep_selection = true;
    return o;
  }
  static ServiceOptions service_options(const Config& config) {
    ServiceOptions o;
    o.model_names = {"small"};
    o.encoding = encoding_of_folder(kSmallModel);
    o.vocab = config.vocab;
    o.stop_ids = {config.eos};
    o.keep_selection = true;
    return o;
  }

  explicit EngineFixture(int speculative_tokens = 0)
      : checkpoint_(
            Checkpoint::load(kSmallModel, {.config_file = "", .with_mtp = speculative_tokens > 0})),
        tokenizer_(Tokenizer::from_folder(kSmallModel)),
        constraints_(tokenizer_, encoding_of_folder(kSmallModel), {checkpoint_->config().eos}),
        metrics_("small"),
        selections_(1 << 20),
        engine_(checkpoint_->config(), checkpoint_->weights(), engine_options(speculative_tokens)),
        service_{engine_,  tokenizer_,  constraints_,
                 metrics_, selections_, service_options(checkpoint_->config())},
        router_({}, metrics_) {
    add_openai_routes(router_, service_);
    add_utility_routes(router_, service_);
    service_.options.tokenizer_info = tokenizer_info(
        kSmallModel, tokenizer_, checkpoint_->config().bos, checkpoint_->config().eos);
    thread_ = std::jthread([this](const std::stop_token& stop) { engine_.run(stop); });
  }

  std::string post(const std::string& path, const OrderedJson& body) {
    return ask("POST", path, body.dump());
  }
  std::string ask(const std::string& method, const std::string& path, const std::string& body) {
    auto request = std::make_shared<HttpRequest>();
    request->method = method;
    request->path = path;
    request->headers["host"] = "127.0.0.1";
    request->body = body;
    auto reply = std::make_shared<FakeReply>();
    router_.handle(request, reply);
    EXPECT_TRUE(reply->run_until_complete(std::chrono::seconds(120)));
    EXPECT_EQ(reply->status(), 200) << reply->body();
    return reply->body();
  }

  std::unique_ptr<Checkpoint> checkpoint_;
  Tokenizer tokenizer_;
  ConstraintFactory constraints_;
  Metrics metrics_;
  SelectionStore selections_;
  Engine engine_;
  Service service_;
  Router router_;
  std::jthread thread_;  // last: it ends before the engine does
};

}  // namespace fathom::server
