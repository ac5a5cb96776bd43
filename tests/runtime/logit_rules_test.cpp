// Rules, masks and log-probabilities on the host, against the sentences of request.h.
#include "runtime/logit_rules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace fathom {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Allows what it is told to.
class FixedConstraint final : public TokenConstraint {
 public:
  explicit FixedConstraint(std::vector<uint64_t> mask) : mask_(std::move(mask)) {}
  std::span<const uint64_t> allowed() override { return mask_; }
  void accept(int32_t) override {}

 private:
  std::vector<uint64_t> mask_;
};

std::vector<uint64_t> mask_of(std::initializer_list<int32_t> ids, size_t words) {
  std::vector<uint64_t> mask(words, 0);
  for (int32_t id : ids) mask[static_cast<size_t>(id / 64)] |= uint64_t{1} << (id % 64);
  return mask;
}

// A greedy draw from `logits` behind a prompt and an answer.
struct RuleCase {
  std::vector<float> logits;
  std::vector<int32_t> prompt = {}, answer = {};
  Request request = {};

  Result<int32_t> draw() {
    request.sampling.temperature = 0;
    SeenTokens seen;
    seen.add_prompt(prompt);
    for (int32_t id : answer) seen.add_answer(id);
    RuledSampler sampler(static_cast<int64_t>(logits.size()));
    return sampler.draw(logits, {&request, &seen, static_cast<int64_t>(answer.size()),
                                 static_cast<int64_t>(prompt.size() + answer.size())});
  }
  int32_t drawn() { return draw().value(); }
};

TEST(LogitRules, BiasIsAdded) {
  RuleCase c{{1, 2, 3, 0}};
  EXPECT_EQ(c.drawn(), 2);
  c.request.rules.bias = {{3, 3.5f}};
  EXPECT_EQ(c.drawn(), 3);
  c.request.rules.bias = {{3, 3.5f}, {2, -100}, {3, -2}};
  EXPECT_EQ(c.drawn(), 1);
}

TEST(LogitRules, RepetitionCountsPromptAndAnswerOnce) {
  RuleCase c{{3, 2, 1.4f, -2}, {0, 0, 0, 1}, {0, 1}};
  c.request.rules.repetition_penalty = 2;  // 1.5, 1, 1.4, -2: a token is not divided twice
  EXPECT_EQ(c.drawn(), 0);
  c.request.rules.repetition_penalty = 2.5f;
  EXPECT_EQ(c.drawn(), 2);
  c = {{-3, -2, -2.9f}, {1}, {}};
  c.request.rules.repetition_penalty = 1.5f;  // negative logits move away from 0: -3, -3, -2.9
  EXPECT_EQ(c.drawn(), 2);
}

TEST(LogitRules, FrequencyAndPresenceLookAtTheAnswerAlone) {
  RuleCase c{{3, 2}, {0, 0, 0, 0}, {}};
  c.request.rules.frequency_penalty = 2;
  c.request.rules.presence_penalty = 2;
  EXPECT_EQ(c.drawn(), 0);
  c.answer = {0};
  EXPECT_EQ(c.drawn(), 1);  // 3 - 2 - 2
  c = {{3, 2}, {}, {0, 0, 0}};
  c.request.rules.frequency_penalty = 0.3f;  // 3 - 0.9
  EXPECT_EQ(c.drawn(), 0);
  c.answer.push_back(0);
  EXPECT_EQ(c.drawn(), 1);
  c.request.rules.frequency_penalty = 0;
  c.request.rules.presence_penalty = 0.9f;  // once, however often
  EXPECT_EQ(c.drawn(), 0);
  c.request.rules.presence_penalty = -2;
  c.answer = {1};
  EXPECT_EQ(c.drawn(), 1);
}

TEST(LogitRules, BiasComesBeforeRepetition) {
  RuleCase c{{1, 2}, {0}, {}};
  c.request.rules.bias = {{0, 3}};
  c.request.rules.repetition_penalty = 4;  // (1 + 3) / 4, not 1 / 4 + 3
  EXPECT_EQ(c.drawn(), 1);
}

TEST(LogitRules, StopIdsWaitForTheLeastLength) {
  RuleCase c{{1, 9, 3, 8}};
  c.request.stop_ids = {1, 3, 100000, -5, 3};
  c.request.rules.min_new_tokens = 2;
  EXPECT_EQ(c.drawn(), 2);
  c.answer = {2};
  EXPECT_EQ(c.drawn(), 2);
  c.answer = {2, 2};
  EXPECT_EQ(c.drawn(), 1);
}

TEST(LogitRules, AMaskRestrictsTheDraw) {
  std::vector<float> logits(200);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i);
  RuleCase c{logits};
  auto allow = [&](std::vector<uint64_t> mask) {
    c.request.constraint = std::make_shared<FixedConstraint>(std::move(mask));
  };
  allow({});  // any
  EXPECT_EQ(c.drawn(), 199);
  allow(mask_of({3, 64, 130}, 4));
  EXPECT_EQ(c.drawn(), 130);
  allow(mask_of({3, 64}, 2));  // past the last word nothing is allowed
  EXPECT_EQ(c.drawn(), 64);
  allow(mask_of({199, 255, 300}, 5));  // bits past the vocabulary are nobody's
  EXPECT_EQ(c.drawn(), 199);
  allow(mask_of({255}, 5));
  EXPECT_EQ(c.draw().failure().status, 500);
  EXPECT_THAT(c.draw().failure().message, HasSubstr("allows no next token"));
  allow({0, 0, 0, 0});
  EXPECT_FALSE(c.draw().ok());
  c.logits[64] = -INFINITY;
  allow(mask_of({64}, 4));
  EXPECT_THAT(c.draw().failure().message, HasSubstr("gives no weight"));
}

TEST(LogitRules, AConstraintThatLeavesOnlyTheStopEndsEarly) {
  RuleCase c{{1, 9, 3, 8}};
  c.request.stop_ids = {1, 3, 1};
  c.request.rules.min_new_tokens = 5;
  c.request.constraint = std::make_shared<FixedConstraint>(mask_of({1, 3}, 1));
  EXPECT_EQ(c.drawn(), 1);
  c.request.constraint = std::make_shared<FixedConstraint>(mask_of({0, 1, 3}, 1));
  EXPECT_EQ(c.drawn(), 0);
}

TEST(LogitRules, BrokenLogitsAreSeenBehindAMask) {
  RuleCase c{{1, NAN, 3, 8}};
  c.request.constraint = std::make_shared<FixedConstraint>(mask_of({0}, 1));
  EXPECT_THAT(c.draw().failure().message, HasSubstr("token 1 is nan"));
}

TEST(LogitRules, WithoutRulesTheDrawIsTheSamplers) {
  std::mt19937 random(3);
  std::vector<float> logits(1000);
  for (float& l : logits) l = static_cast<float>(random() % 1000) / 100;
  Sampler plain(1000);
  RuledSampler ruled(1000);
  SeenTokens seen;
  Request r;
  r.sampling.temperature = 0.8f;
  r.sampling.top_p = 0.9f;
  Request same = r;  // rules that change nothing draw the same bits, too
  same.constraint = std::make_shared<FixedConstraint>(std::vector<uint64_t>(16, ~uint64_t{0}));
  for (int pos = 0; pos < 200; ++pos) {
    const int32_t want = plain.sample(logits, r.sampling, pos).value();
    EXPECT_EQ(ruled.draw(logits, {&r, &seen, 0, pos}).value(), want);
    EXPECT_EQ(ruled.draw(logits, {&same, &seen, 0, pos}).value(), want);
  }
}

TEST(LogitRules, OutOfRangeIsNamedWithBothValues) {
  auto message = [](auto change) {
    LogitRules r;
    change(r);
    Result<LogitRules> c = checked(r, 100, 50);
    if (c.ok()) return std::string("fine");
    EXPECT_EQ(c.failure().status, 400);
    return c.failure().message;
  };
  using R = LogitRules;
  EXPECT_EQ(message([](R&) {}), "fine");
  EXPECT_EQ(message([](R& r) { r.bias = {{0, -100.0f}, {99, 100.0f}}; }), "fine");
  EXPECT_EQ(message([](R& r) { r.min_new_tokens = 50; }), "fine");
  EXPECT_THAT(message([](R& r) {
                r.bias = {{100, 1.0f}};
              }),
              HasSubstr("token 100: the vocabulary has ids 0 to 99"));
  EXPECT_THAT(message([](R& r) { r.bias = {{-1, 1.0f}}; }), HasSubstr("token -1"));
  EXPECT_THAT(message([](R& r) { r.bias = {{7, 100.5f}}; }), HasSubstr("bias of token 7 is 100.5"));
  EXPECT_THAT(message([](R& r) { r.bias = {{7, NAN}}; }), HasSubstr("is nan"));
  EXPECT_THAT(message([](R& r) { r.repetition_penalty = 0; }),
              HasSubstr("repetition_penalty is 0"));
  EXPECT_THAT(message([](R& r) { r.repetition_penalty = INFINITY; }), HasSubstr("is inf"));
  EXPECT_THAT(message([](R& r) { r.frequency_penalty = 2.5f; }), HasSubstr("from -2 to 2"));
  EXPECT_THAT(message([](R& r) { r.presence_penalty = NAN; }),
              HasSubstr("presence_penalty is nan"));
  EXPECT_THAT(message([](R& r) { r.min_new_tokens = 51; }), HasSubstr("max_new_tokens, 50"));
  EXPECT_THAT(message([](R& r) { r.min_new_tokens = -1; }), HasSubstr("min_new_tokens is -1"));
}

TEST(Logprobs, AreTheLogSoftmax) {
  const std::vector<float> logits = {1, 3, 2, 3, -INFINITY};
  double sum = 0;
  for (float l : logits) sum += std::exp(static_cast<double>(l));
  const TokenLogprobs p = logprobs_of(logits, 2, 3);
  EXPECT_EQ(p.token, 2);
  EXPECT_FLOAT_EQ(p.logprob, static_cast<float>(2 - std::log(sum)));
  const float best = static_cast<float>(3 - std::log(sum));
  EXPECT_THAT(p.top, ElementsAre(std::pair(1, best), std::pair(3, best), std::pair(2, p.logprob)));
  EXPECT_TRUE(logprobs_of(logits, 0, 0).top.empty());
  EXPECT_EQ(logprobs_of(logits, 4, 20).top.size(), 5u);
  EXPECT_EQ(logprobs_of(logits, 4, 20).logprob, -INFINITY);
}

TEST(Logprobs, TheTopOfALargeVocabularyIsSorted) {
  std::mt19937 random(1);
  std::vector<float> logits(129280);
  for (float& l : logits) l = static_cast<float>(random() % 4096) / 64;  // many ties
  std::vector<int32_t> order(logits.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  const TokenLogprobs p = logprobs_of(logits, 5, kMaxTopLogprobs);
  ASSERT_EQ(p.top.size(), static_cast<size_t>(kMaxTopLogprobs));
  for (size_t i = 0; i < p.top.size(); ++i) EXPECT_EQ(p.top[i].first, order[i]);
}

}  // namespace
}  // namespace fathom
