// Rules, constraints, log-probabilities and selections through the engine, on a device that keeps
// books (fake_runner.h).
#include <stdexcept>

#include "runtime/fake_engine.h"

namespace fathom {
namespace {

using testing::HasSubstr;

class EngineRules : public FakeEngineTest {};
INSTANTIATE_TEST_SUITE_P(Modes, EngineRules, all_modes(), mode_name);

// Allows the even tokens, then the odd ones, and so on; says when it is asked.
class EvenOdd final : public TokenConstraint {
 public:
  std::span<const uint64_t> allowed() override {
    ++asked;
    if (fail_at == asked) throw std::runtime_error("the grammar is lost");
    const bool even = accepted.size() % 2 == 0;
    mask_.assign(4, even ? 0x5555555555555555u : ~uint64_t{0x5555555555555555u});
    if (empty_at == asked) mask_.assign(4, 0);
    return mask_;
  }
  void accept(int32_t token) override {
    EXPECT_EQ(asked, static_cast<int>(accepted.size()) + 1) << "asked once before each token";
    accepted.push_back(token);
  }
  int asked = 0, fail_at = 0, empty_at = 0;
  std::vector<int32_t> accepted;

 private:
  std::vector<uint64_t> mask_;
};

TEST_P(EngineRules, AConstraintIsAskedAndToldTokenByToken) {
  EngineOptions o;
  o.compute.threads = 3;
  Rig rig(GetParam(), o, 6, 256);  // few pages: preempted and computed again in the middle
  std::vector<FakeAnswer> answers(4);
  std::vector<std::shared_ptr<EvenOdd>> constraints;
  for (unsigned i = 0; i < 4; ++i) {
    Request r = fake_request(fake_ids(40, i), 60);
    constraints.push_back(std::make_shared<EvenOdd>());
    r.constraint = constraints.back();
    collect_into(r, answers[i]);
    ASSERT_TRUE(rig.engine->submit(std::move(r)).ok());
  }
  while (rig.engine->step()) {
  }
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(answers[i].ids.size(), 60u);
    EXPECT_EQ(answers[i].ids, constraints[i]->accepted);
    for (size_t t = 0; t < answers[i].ids.size(); ++t)
      ASSERT_EQ(answers[i].ids[t] % 2, static_cast<int32_t>(t % 2));
  }
  EXPECT_GT(rig.engine->snapshot().preemptions, 0);
}

TEST_P(EngineRules, AConstraintThatFailsTakesNobodyWithIt) {
  for (bool throws : {false, true}) {
    Rig rig(GetParam());
    FakeAnswer bad, good;
    Request r = fake_request(fake_ids(40, 1), 20);
    auto constraint = std::make_shared<EvenOdd>();
    (throws ? constraint->fail_at : constraint->empty_at) = 4;
    r.constraint = constraint;
    collect_into(r, bad);
    ASSERT_TRUE(rig.engine->submit(std::move(r)).ok());
    r = fake_request(fake_ids(40, 2), 20);
    const std::vector<int32_t> want = fake_answer(r, 512);
    collect_into(r, good);
    ASSERT_TRUE(rig.engine->submit(std::move(r)).ok());
    while (rig.engine->step()) rig.engine->check_integrity();
    EXPECT_EQ(bad.finish, Finish::error);
    EXPECT_THAT(bad.error, HasSubstr(throws ? "the grammar is lost" : "allows no next token"));
    EXPECT_EQ(bad.ids.size(), 3u);
    EXPECT_EQ(good.ids, want);
  }
}

// Every log-probability and selection belongs to its own text, though prompts are cut so that their
// rows fit, share steps with others, and are preempted.
TEST_P(EngineRules, LogprobsAndSelectionsAreOfTheirOwnTokens) {
  EngineOptions o;
  o.compute.sequences = 3;
  o.keep_selection = true;
  o.keep_prefixes = true;
  Rig rig(GetParam(), o, 6, 256);
  int first_events = 0;
  for (unsigned i = 0; i < 6; ++i) {
    Request r = fake_request(fake_ids(100 + 20 * static_cast<int>(i % 3), i / 2), 50);
    r.logprobs = 2;
    r.prompt_logprobs = i % 2 == 0;
    r.keep_selection = true;
    auto text = std::make_shared<std::vector<int32_t>>(r.ids);
    const bool whole = r.prompt_logprobs;
    r.sink = [&first_events, text, whole, prompt = r.ids.size()](const TokenEvent& e) {
      auto expected = [&](size_t position) {  // of the token there
        return logprobs_of(fake_logits(hash_of(std::span(*text).first(position))),
                           (*text)[position], 2);
      };
      auto same = [](const TokenLogprobs& a, const TokenLogprobs& b) {
        return a.token == b.token && a.logprob == b.logprob && a.top == b.top;
      };
      ASSERT_GE(e.token, 0) << e.error;
      text->push_back(e.token);
      ASSERT_TRUE(e.logprobs && same(*e.logprobs, expected(text->size() - 1)));
      const bool first = text->size() == prompt + 1;
      first_events += first;
      ASSERT_EQ(e.prompt_logprobs.size(), first && whole ? prompt - 1 : 0);
      for (size_t p = 1; p < prompt && first && whole; ++p)
        ASSERT_TRUE(same(e.prompt_logprobs[p - 1], expected(p))) << p;
      ASSERT_TRUE(e.selection);
      const size_t before = text->size() - 1;
      EXPECT_EQ(e.selection->position, static_cast<int64_t>(before) - 1);
      ASSERT_EQ(e.selection->layers.size(), static_cast<size_t>(kFakeLayers));
      for (int layer = 0; layer < kFakeLayers; ++layer) {
        const auto picks = e.selection->layers[static_cast<size_t>(layer)];
        ASSERT_EQ(
            std::vector<int32_t>(picks.begin(), picks.end()),
            fake_picks(hash_of(std::span(*text).first(before)), layer, static_cast<int>(before)));
      }
    };
    ASSERT_TRUE(rig.engine->submit(std::move(r)).ok());
  }
  while (rig.engine->step()) rig.engine->check_integrity();
  EXPECT_EQ(first_events, 6);
  EXPECT_GT(rig.engine->snapshot().preemptions, 0);
  EXPECT_GT(rig.engine->snapshot().prefix_hits, 0);
}

TEST_P(EngineRules, RefusesWhatItCanNeverServe) {
  Rig rig(GetParam(), {}, 2, 1024);
  auto refusal = [&](auto change) {
    Request r = fake_request(fake_ids(20, 1), 30);
    change(r);
    const Result<RequestId> id = rig.engine->submit(std::move(r));
    EXPECT_FALSE(id.ok());
    if (id.ok()) return std::string();
    EXPECT_EQ(id.failure().status, 400);
    return id.failure().message;
  };
  EXPECT_THAT(refusal([](Request& r) { r.ids = fake_ids(128, 1); }),
              HasSubstr("128 tokens: the cache holds 128"));
  EXPECT_THAT(refusal([](Request& r) { r.logprobs = 21; }), HasSubstr("logprobs is 21: 0 to 20"));
  EXPECT_THAT(refusal([](Request& r) { r.logprobs = -2; }), HasSubstr("logprobs is -2"));
  EXPECT_THAT(refusal([](Request& r) { r.prompt_logprobs = true; }), HasSubstr("logprobs -1"));
  EXPECT_THAT(refusal([](Request& r) {
                r.logprobs = 0;
                r.prompt_logprobs = true;
                r.prompt_logprobs_from = 21;
              }),
              HasSubstr("from token 21 of the prompt on: 1 to its 20 tokens"));
  EXPECT_THAT(refusal([](Request& r) { r.keep_selection = true; }),
              HasSubstr("not started to keep"));
  EXPECT_THAT(refusal([](Request& r) {
                r.rules.bias = {{kFakeVocab, 1.0f}};
              }),
              HasSubstr("0 to 199"));
  EXPECT_THAT(refusal([](Request& r) { r.rules.min_new_tokens = 31; }), HasSubstr("30"));
  EXPECT_FALSE(rig.engine->step());
}

}  // namespace
}  // namespace fathom
