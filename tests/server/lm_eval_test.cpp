// Requests as EleutherAI's lm-evaluation-harness sends them (models local-completions and
// local-chat-completions), and what it makes of the replies, against the model's own logits.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "runtime/evaluator.h"
#include "runtime/logit_rules.h"
#include "server/engine_fixture.h"

namespace fathom::server {
namespace {

using Ids = std::vector<int32_t>;

// What the harness reports of a context and a continuation.
struct Scored {
  double sum = 0;
  bool greedy = true;
};

class LmEvalTest : public EngineFixture {
 protected:
  Ids encode(const std::string& text) {
    const OrderedJson reply =
        OrderedJson::parse(post("/tokenize", {{"prompt", text}, {"add_special_tokens", false}}));
    return reply["tokens"].get<Ids>();
  }

  // loglikelihood: `prompts` as the harness has them (lists of ids, or texts).
  OrderedJson score(const OrderedJson& prompts) {
    return OrderedJson::parse(post("/v1/completions", {{"model", "small"},
                                                       {"prompt", prompts},
                                                       {"temperature", 0},
                                                       {"max_tokens", 1},
                                                       {"logprobs", 1},
                                                       {"seed", 1234},
                                                       {"echo", true}}));
  }

  // The sum over [context, -1): what is in front of the one token that was generated.
  static Scored read(const OrderedJson& choice, size_t context) {
    const OrderedJson& l = choice["logprobs"];
    Scored s;
    for (size_t i = context; i + 1 < l["token_logprobs"].size(); ++i) {
      const double p = l["token_logprobs"][i].get<double>();
      double best = -INFINITY;
      for (const auto& [token, value] : l["top_logprobs"][i].items())
        best = std::max(best, value.get<double>());
      s.sum += p;
      s.greedy &= p == best;
    }
    return s;
  }

  Scored expected(const Ids& ids, size_t context) {
    EvalOptions options;
    options.compute.threads = 1;
    options.compute.context = static_cast<int64_t>(ids.size());
    Evaluator evaluator(checkpoint_->config(), checkpoint_->weights(), options);
    std::vector<int64_t> rows;
    for (size_t p = context - 1; p + 1 < ids.size(); ++p) rows.push_back(static_cast<int64_t>(p));
    Scored s;
    evaluator.feed(ids, rows, [&](int64_t p, std::span<const float> logits) {
      const int32_t next = ids[static_cast<size_t>(p) + 1];
      const TokenLogprobs l = logprobs_of(logits, next, 1);
      s.sum += static_cast<double>(l.logprob);
      s.greedy &= l.top[0].first == next;
    });
    return s;
  }

  struct Case {
    Ids ids;
    size_t context;
  };
  std::vector<Case> cases() {
    std::vector<Case> out;
    auto add = [&](Ids context, const std::string& continuation) {
      const size_t n = context.size();
      const Ids rest = encode(continuation);
      context.insert(context.end(), rest.begin(), rest.end());
      out.push_back({std::move(context), n});
    };
    for (const char* end : {" was a little girl", " were three bears", " was", " a the of"})
      add(encode("Once upon a time there"), end);
    add(encode("red 482, blue 913, green 275; red 482, blue 913, green"), " 275");
    // loglikelihood_rolling: the whole text behind one token of the tokenizer's.
    add({checkpoint_->config().eos}, "The old man went down to the river, and saw a boat there.");
    return out;
  }
};

TEST_F(LmEvalTest, ChoicesOfTokenListsSumToTheModelsOwnLogProbabilities) {
  const std::vector<Case> all = cases();
  OrderedJson prompts = OrderedJson::array();
  for (const Case& c : all) prompts.push_back(c.ids);
  const OrderedJson reply = score(prompts);
  ASSERT_EQ(reply["choices"].size(), all.size());
  int greedy = 0;
  for (const OrderedJson& choice : reply["choices"]) {
    const Case& c = all[choice["index"].get<size_t>()];
    // All of the prompt, and the one token behind it that the harness takes off.
    ASSERT_EQ(choice["logprobs"]["token_logprobs"].size(), c.ids.size() + 1);
    ASSERT_EQ(choice["logprobs"]["top_logprobs"].size(), c.ids.size() + 1);
    const Scored got = read(choice, c.context), want = expected(c.ids, c.context);
    EXPECT_NEAR(got.sum, want.sum, 1e-4) << choice["index"];
    EXPECT_EQ(got.greedy, want.greedy) << choice["index"];
    greedy += got.greedy;
  }
  EXPECT_GT(greedy, 0);
  EXPECT_LT(greedy, static_cast<int>(all.size()));
}

TEST_F(LmEvalTest, AsTextsOrOneByOneTheSumsAreTheSame) {
  const std::vector<Case> all = cases();
  for (size_t i = 0; i < 5; ++i) {
    const Case& c = all[i];
    const OrderedJson one = score(OrderedJson::array({OrderedJson(c.ids)}));
    const OrderedJson text = score(OrderedJson::array({tokenizer_.decode(c.ids)}));
    EXPECT_EQ(one["choices"][0]["logprobs"], text["choices"][0]["logprobs"]) << i;
    EXPECT_NEAR(read(one["choices"][0], c.context).sum, expected(c.ids, c.context).sum, 1e-4);
  }
}

TEST_F(LmEvalTest, NothingIsGeneratedBehindAnEchoOfNoTokens) {
  const Case c = cases()[0];
  const OrderedJson reply = OrderedJson::parse(post("/v1/completions", {{"model", "small"},
                                                                        {"prompt", c.ids},
                                                                        {"temperature", 0},
                                                                        {"max_tokens", 0},
                                                                        {"logprobs", 1},
                                                                        {"seed", 1234},
                                                                        {"echo", true}}));
  EXPECT_EQ(reply["choices"][0]["logprobs"]["token_logprobs"].size(), c.ids.size());
  EXPECT_EQ(reply["usage"]["completion_tokens"], 0);
}

TEST_F(LmEvalTest, TextIsGeneratedUntilAStop) {
  OrderedJson body = {
      {"prompt", OrderedJson::array({OrderedJson(encode("One day Anna had a cat."))})},
      {"model", "small"},
      {"max_tokens", 48},
      {"temperature", 0},
      {"stop", OrderedJson::array()},
      {"seed", 1234}};
  const OrderedJson whole = OrderedJson::parse(post("/v1/completions", body));
  const std::string text = whole["choices"][0]["text"];
  // A word of the text is where it stops next time.
  const size_t at = text.find(' ', text.size() / 2);
  ASSERT_NE(at, text.npos);
  const std::string word = text.substr(at, 6);
  body["stop"] = {word, "never seen"};
  const OrderedJson cut = OrderedJson::parse(post("/v1/completions", body));
  EXPECT_EQ(cut["choices"][0]["text"], text.substr(0, text.find(word)));
  EXPECT_EQ(cut["choices"][0]["finish_reason"], "stop");
}

TEST_F(LmEvalTest, ChatIsGeneratedUntilAStop) {
  const OrderedJson reply = OrderedJson::parse(post("/v1/chat/completions", OrderedJson::parse(R"({
      "messages": [{"role": "user", "content": "The pass key of Alice is 48213. The room number of Hugo is 2291. What is the pass key of Alice?"}],
      "model": "small", "max_tokens": 256, "temperature": 0,
      "stop": ["Question:", "</s>", "<|im_end|>"], "seed": 1234})")));
  EXPECT_EQ(reply["choices"][0]["message"]["content"], "The pass key of Alice is 48213.");
}

TEST_F(LmEvalTest, TheTokenizerIsTheServers) {
  const OrderedJson info = OrderedJson::parse(ask("GET", "/tokenizer_info", ""));
  ASSERT_TRUE(info["eos_token"].is_string());
  EXPECT_EQ(encode(info["eos_token"]), Ids{checkpoint_->config().eos});
  EXPECT_EQ(encode(info["bos_token"]), Ids{checkpoint_->config().bos});
  EXPECT_TRUE(info["pad_token"].is_string());
  EXPECT_THAT(info["chat_template"].get<std::string>(), ::testing::HasSubstr("messages"));
  const Ids ids = encode("a boat ☕");
  EXPECT_EQ(OrderedJson::parse(post("/detokenize", {{"tokens", ids}}))["prompt"], "a boat ☕");
}

}  // namespace
}  // namespace fathom::server
