// What an answer of the bundled model carries beside tokens: log-probabilities and what the indexer
// selected. They must not depend on how the engine came to them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "base/error.h"
#include "model/checkpoint.h"
#include "runtime/engine.h"
#include "runtime/evaluator.h"
#include "runtime/logit_rules.h"
#include "runtime/small_model.h"
#include "runtime/taps.h"

namespace fathom {
namespace {

using test::random_ids;
using test::small;

EngineOptions answer_options(int chunk = 512) {
  EngineOptions o;
  o.compute.threads = 1;
  o.compute.context = 1024;
  o.compute.step_tokens = chunk;
  o.compute.sequences = 4;
  o.keep_selection = true;
  return o;
}

Request sampled_request(std::vector<int32_t> ids, int64_t max_new_tokens) {
  Request r;
  r.ids = std::move(ids);
  r.max_new_tokens = max_new_tokens;
  r.sampling.temperature = 1;
  r.sampling.seed = 5;
  return r;
}

struct FullAnswer {
  std::vector<int32_t> ids;
  std::vector<TokenLogprobs> logprobs, prompt_logprobs;
  // [token][layer][..]
  std::vector<std::vector<std::vector<int32_t>>> picked;
};

FullAnswer answer_of(Engine& engine, Request r) {
  FullAnswer a;
  r.sink = [&](const TokenEvent& e) {
    EXPECT_NE(e.finish, Finish::error) << e.error;
    if (e.token >= 0) a.ids.push_back(e.token);
    if (e.logprobs) a.logprobs.push_back(*e.logprobs);
    for (const TokenLogprobs& p : e.prompt_logprobs) a.prompt_logprobs.push_back(p);
    if (!e.selection) return;
    a.picked.emplace_back();
    for (auto layer : e.selection->layers) a.picked.back().emplace_back(layer.begin(), layer.end());
  };
  EXPECT_TRUE(engine.submit(std::move(r)).ok());
  while (engine.step()) engine.check_integrity();
  return a;
}

bool same(const TokenLogprobs& a, const TokenLogprobs& b) {
  return a.token == b.token && a.logprob == b.logprob && a.top == b.top;
}

TEST(EngineAnswers, LogprobsChangeNoTokenAndNameTheDrawnOne) {
  Engine engine(small().config(), small().weights(), answer_options());
  Request plain = sampled_request(random_ids(100, 1), 8);
  const FullAnswer want = answer_of(engine, plain);
  EXPECT_TRUE(want.logprobs.empty());
  plain.logprobs = 5;
  const FullAnswer got = answer_of(engine, plain);
  EXPECT_EQ(got.ids, want.ids);
  ASSERT_EQ(got.logprobs.size(), 8u);
  for (size_t i = 0; i < 8; ++i) {
    const TokenLogprobs& p = got.logprobs[i];
    EXPECT_EQ(p.token, got.ids[i]);
    ASSERT_EQ(p.top.size(), 5u);
    EXPECT_LE(p.logprob, p.top[0].second);
    double sum = 0;
    for (size_t k = 0; k < 5; ++k) {
      sum += std::exp(static_cast<double>(p.top[k].second));
      EXPECT_GE(p.top[k == 0 ? 0 : k - 1].second, p.top[k].second);
    }
    EXPECT_LT(sum, 1 + 1e-6);
  }
}

// Where decode and prefill are one, an answer's log-probabilities are those of the same text as a
// prompt, bit for bit and whatever the chunks.
TEST(EngineAnswers, PromptLogprobsAreThoseOfTheSameTextGenerated) {
  for (int chunk : {5, 512}) {
    EngineOptions o = answer_options(chunk);
    o.compute.batch_invariant = true;
    o.keep_prefixes = true;  // not for prompts whose every row is wanted
    Engine engine(small().config(), small().weights(), o);
    Request r = sampled_request(random_ids(150, 2), 20);
    r.logprobs = 2;
    const FullAnswer generated = answer_of(engine, r);
    Request again = sampled_request(r.ids, 1);
    for (int32_t id : generated.ids) again.ids.push_back(id);
    again.logprobs = 2;
    again.prompt_logprobs = true;
    const FullAnswer prompt = answer_of(engine, again);
    ASSERT_EQ(prompt.prompt_logprobs.size(), 169u);
    for (size_t i = 0; i < 149; ++i)
      EXPECT_EQ(prompt.prompt_logprobs[i].token, again.ids[i + 1]) << i;
    for (size_t i = 0; i < 20; ++i)
      EXPECT_TRUE(same(prompt.prompt_logprobs[149 + i], generated.logprobs[i])) << i;
  }
}

// Log-probabilities of a prompt's end alone: the same ones, with kept pages in front of them and
// however few rows a step has for them.
TEST(EngineAnswers, PromptLogprobsFromATokenOnAreTheEndOfAll) {
  for (int rows : {7, 64, 512}) {
    EngineOptions o = answer_options(512);
    o.keep_prefixes = true;
    o.max_prompt_rows = rows;
    Engine engine(small().config(), small().weights(), o);
    Request r = sampled_request(random_ids(300, 4), 1);
    r.logprobs = 1;
    r.prompt_logprobs = true;
    const FullAnswer whole = answer_of(engine, r);
    ASSERT_EQ(whole.prompt_logprobs.size(), 299u);
    for (int64_t from : {1, 2, 64, 65, 129, 299, 300}) {
      r.prompt_logprobs_from = from;
      const int64_t before = engine.stats().reused_tokens;
      const FullAnswer end = answer_of(engine, r);
      EXPECT_EQ(engine.stats().reused_tokens - before, (from - 1) / 64 * 64) << from;
      ASSERT_EQ(end.prompt_logprobs.size(), static_cast<size_t>(300 - from));
      for (size_t i = 0; i < end.prompt_logprobs.size(); ++i)
        EXPECT_TRUE(
            same(end.prompt_logprobs[i], whole.prompt_logprobs[i + static_cast<size_t>(from) - 1]))
            << from << " " << i;
      EXPECT_EQ(end.ids, whole.ids);
    }
  }
}

// Against taps in an evaluation of the same text, which look between the ops.
TEST(EngineAnswers, SelectionsAreTheIndexers) {
  const Config& c = small().config();
  std::vector<FullAnswer> answers;
  for (int chunk : {100, 512}) {
    Engine engine(c, small().weights(), answer_options(chunk));
    Request r = sampled_request(random_ids(300, 3), 4);
    r.keep_selection = true;
    answers.push_back(answer_of(engine, r));
  }
  EXPECT_EQ(answers[0].picked, answers[1].picked);
  const FullAnswer& a = answers[0];
  ASSERT_EQ(a.picked.size(), 4u);

  std::vector<int32_t> text = random_ids(300, 3);
  text.insert(text.end(), a.ids.begin(), a.ids.end());
  const std::vector<int64_t> rows = {299, 300, 301, 302};
  TapOps* taps = nullptr;
  EvalOptions e;
  e.compute.threads = 1;
  e.wrap = [&](Ops& ops) {
    auto wrapped = std::make_unique<TapOps>(ops, rows, static_cast<int64_t>(text.size()));
    taps = wrapped.get();
    return wrapped;
  };
  e.compute.context = static_cast<int64_t>(text.size());
  Evaluator evaluator(c, small().weights(), e);
  auto ignore = [](int64_t, std::span<const float>) {};
  evaluator.feed(std::span(text).first(300), {}, ignore);
  evaluator.feed(std::span(text).subspan(300, 3), {}, ignore, /*decode=*/true);
  for (size_t token = 0; token < 4; ++token)
    for (int layer = 0; layer < c.layers; ++layer) {
      const std::vector<uint8_t>& selected = taps->layers().at(layer).selected;
      std::vector<int32_t> want;
      for (size_t p = 0; p < text.size(); ++p)
        if (selected[token * text.size() + p]) want.push_back(static_cast<int32_t>(p));
      EXPECT_EQ(want.size(), static_cast<size_t>(c.index_topk));
      EXPECT_EQ(a.picked[token][static_cast<size_t>(layer)], want)
          << "token " << token << ", layer " << layer;
    }
}

TEST(EngineAnswers, AShortTextIsSelectedWhole) {
  Engine engine(small().config(), small().weights(), answer_options());
  Request r = sampled_request(random_ids(20, 4), 3);
  r.keep_selection = true;
  const FullAnswer a = answer_of(engine, r);
  ASSERT_EQ(a.picked.size(), 3u);
  for (size_t token = 0; token < 3; ++token) {
    ASSERT_EQ(a.picked[token].size(), static_cast<size_t>(small().config().layers));
    for (const std::vector<int32_t>& layer : a.picked[token]) {
      ASSERT_EQ(layer.size(), 20 + token);
      for (size_t p = 0; p < layer.size(); ++p) EXPECT_EQ(layer[p], static_cast<int32_t>(p));
    }
  }
}

TEST(EngineAnswers, NothingSelectsInADenseRun) {
  EngineOptions o = answer_options();
  o.compute.attention = AttentionMode::dense;
  EXPECT_THROW(Engine(small().config(), small().weights(), o), Error);
}

// Rules keep to their request: its neighbours in the same steps draw what they draw alone.
TEST(EngineAnswers, RulesAreOneRequestsOwn) {
  Engine engine(small().config(), small().weights(), answer_options());
  Request plain = sampled_request(random_ids(60, 7), 12), ruled = plain;
  plain.sampling.temperature = ruled.sampling.temperature = 0;
  const FullAnswer alone = answer_of(engine, plain);
  ruled.rules.bias = {{alone.ids[0], -100.0f}};
  FullAnswer a, b;
  auto collect = [](Request& r, FullAnswer& into) {
    r.sink = [&into](const TokenEvent& e) {
      if (e.token >= 0) into.ids.push_back(e.token);
    };
  };
  collect(plain, a);
  collect(ruled, b);
  ASSERT_TRUE(engine.submit(plain).ok());
  ASSERT_TRUE(engine.submit(ruled).ok());
  while (engine.step()) {
  }
  EXPECT_EQ(a.ids, alone.ids);
  EXPECT_EQ(std::count(b.ids.begin(), b.ids.end(), alone.ids[0]), 0);
}

}  // namespace
}  // namespace fathom
