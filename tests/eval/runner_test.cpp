// Items through an engine whose answers are a hash of what it is given (runtime/fake_runner.h).
#include "eval/runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "eval/report.h"
#include "runtime/fake_engine.h"
#include "support/temp_folder.h"

namespace fathom::eval {
namespace {

using testing::HasSubstr;
using Mode = FakeRunner::Mode;

// Every item has two requests; one of them is scored, the other is answered.
class TwoAsks final : public Task {
 public:
  explicit TwoAsks(size_t items, size_t too_long = 1000) : items_(items), too_long_(too_long) {}
  std::string name() const override { return "two"; }
  std::string kind() const override { return "test"; }
  Metric metric() const override { return Metric::nats_per_token; }
  PageKey key() const override { return {items_, too_long_}; }
  size_t size() const override { return items_; }
  std::string where(size_t item) const override { return fmt::format("two:{}", item + 1); }
  std::vector<Ask> asks(size_t item) const override {
    std::vector<Ask> asks(2);
    const int n = item == too_long_ ? 600 : 20 + static_cast<int>(item) * 7 % 90;
    asks[0].ids = fake_ids(n, static_cast<unsigned>(item));
    asks[0].score_from = 11;
    asks[1].ids = fake_ids(30, static_cast<unsigned>(item));
    asks[1].max_new_tokens = 5;
    asks[1].watched = {3, 9};
    return asks;
  }
  Record judge(size_t item, std::span<const Outcome> outcomes) const override {
    EXPECT_EQ(outcomes[0].logprobs.size(), asks(item)[0].ids.size() - 11);
    EXPECT_EQ(outcomes[1].answer.size(), 5u);
    Record r;
    for (float p : outcomes[0].logprobs) r.value -= static_cast<double>(p);
    for (int32_t id : outcomes[1].answer) r.value += id;
    r.weight = static_cast<double>(outcomes[0].logprobs.size());
    r.detail["picked"] = outcomes[1].picked;
    return r;
  }
  bool binary() const override { return false; }

 private:
  size_t items_, too_long_;
};

EngineOptions engine_options(int max_seqs = 4) {
  EngineOptions o;
  o.compute.sequences = max_seqs;
  o.keep_prefixes = true;
  o.keep_selection = true;
  return o;
}

const RunLabel kLabel{{7, 7}, "two", "fake"};

bool same(const std::vector<Record>& a, const std::vector<Record>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i)
    if (a[i].item != b[i].item || a[i].value != b[i].value || a[i].weight != b[i].weight ||
        a[i].detail != b[i].detail)
      return false;
  return true;
}

RunResult run(const Task& task, ResultsFile& results, int at_once = 8, int max_seqs = 4,
              const std::function<bool()>& stopped = {}) {
  Rig rig(Mode::lazy, engine_options(max_seqs));
  RunOptions o;
  o.at_once = at_once;
  o.watch_selection = true;
  o.stopped = stopped;
  const RunResult r = run_task(rig.engine.get(), task, kLabel, results, o);
  rig.engine->check_integrity();
  EXPECT_EQ(rig.engine->snapshot().running + rig.engine->snapshot().waiting, 0);
  return r;
}

TEST(Runner, RecordsDoNotDependOnHowManyAreUnderWay) {
  const TwoAsks task(40);
  ResultsFile none;
  const RunResult one = run(task, none, 1, 1);
  ASSERT_EQ(one.records.size(), 40u);
  EXPECT_TRUE(one.complete);
  EXPECT_TRUE(one.skipped.empty());
  for (size_t i = 0; i < 40; ++i) {
    EXPECT_EQ(one.records[i].item, i);
    ASSERT_EQ(one.records[i].detail["picked"].size(), static_cast<size_t>(kFakeLayers));
  }
  for (int at_once : {3, 100}) {
    ResultsFile fresh;
    EXPECT_TRUE(same(run(task, fresh, at_once, 5).records, one.records)) << at_once;
  }
}

// The share of watched tokens among those picked, mean over the answer's tokens.
TEST(Runner, WatchedTokensAreCountedLayerByLayer) {
  const TwoAsks task(3);
  ResultsFile none;
  const RunResult r = run(task, none);
  for (size_t item = 0; item < 3; ++item) {
    std::vector<int32_t> text = task.asks(item)[1].ids;
    Request plain = fake_request(text, 5, 0);
    const std::vector<int32_t> answer = fake_answer(plain, 512);
    std::vector<double> want(kFakeLayers);
    for (int32_t id : answer) {
      for (int layer = 0; layer < kFakeLayers; ++layer)
        for (int32_t pick : fake_picks(hash_of(text), layer, static_cast<int>(text.size())))
          want[static_cast<size_t>(layer)] += pick >= 3 && pick < 9 ? 1.0 / 6 / 5 : 0;
      text.push_back(id);
    }
    const auto got = r.records[item].detail["picked"].get<std::vector<double>>();
    for (size_t layer = 0; layer < kFakeLayers; ++layer)
      EXPECT_NEAR(got[layer], want[layer], 1e-12) << item << " " << layer;
  }
}

TEST(Runner, ARunThatWasStoppedGoesOn) {
  const TwoAsks task(30);
  ResultsFile none;
  const RunResult whole = run(task, none);
  const test::TempFolder dir;
  size_t kept = 0;
  int rounds = 0;
  for (bool complete = false; !complete; ++rounds) {
    ASSERT_LT(rounds, 40);
    ResultsFile results(dir.file("r.jsonl"));
    int steps = 0;
    const RunResult r = run(task, results, 8, 4, [&] { return ++steps > 10; });
    EXPECT_EQ(r.kept, kept);
    EXPECT_EQ(r.complete, r.records.size() == 30);
    kept = r.records.size();
    complete = r.complete;
  }
  EXPECT_GT(rounds, 2);
  ResultsFile results(dir.file("r.jsonl"));
  // Nothing is left: no engine is needed.
  const RunResult again = run_task(nullptr, task, kLabel, results, {});
  EXPECT_TRUE(again.complete);
  EXPECT_EQ(again.kept, 30u);
  EXPECT_TRUE(same(again.records, whole.records));
}

TEST(Runner, WhatTheEngineRefusesIsToldAndCounted) {
  const TwoAsks task(10, 4);
  ResultsFile none;
  const RunResult r = run(task, none);
  EXPECT_TRUE(r.complete);
  EXPECT_EQ(r.records.size(), 9u);
  ASSERT_EQ(r.skipped.size(), 1u);
  EXPECT_EQ(r.skipped[0].where, "two:5");
  EXPECT_THAT(r.skipped[0].reason, HasSubstr("600 tokens"));
  const TaskReport report = report_of({{"fake", &task, r}});
  EXPECT_EQ(report.skipped.size(), 1u);
  EXPECT_EQ(report.rows[0].estimate.items, 9u);
}

TEST(Runner, ARunAgainstItselfIsIdentical) {
  const TwoAsks task(12);
  ResultsFile first, second;
  const RunResult a = run(task, first, 8, 4), b = run(task, second, 2, 1);
  const TaskReport report = report_of({{"a", &task, a}, {"b", &task, b}});
  ASSERT_EQ(report.comparisons.size(), 1u);
  const Comparison& c = report.comparisons[0];
  EXPECT_EQ(c.equal, 12u);
  EXPECT_EQ(c.difference.value, 0);
  EXPECT_EQ(c.difference.high, 0);
  EXPECT_EQ(c.verdict, "identical on all 12 items");
}

TEST(Runner, PairsAreMadeByPlaceAndWeight) {
  const TwoAsks task(12);
  ResultsFile none;
  RunResult a = run(task, none), b = a;
  b.records.erase(b.records.begin() + 3);
  b.records[5].weight += 1;  // another tokenizer's
  b.records[7].value += 1;
  const TaskReport report = report_of({{"a", &task, a}, {"b", &task, b}});
  EXPECT_EQ(report.comparisons[0].difference.items, 10u);
  EXPECT_EQ(report.comparisons[0].equal, 9u);
  EXPECT_LT(report.comparisons[0].difference.value, 0);
}

// A question of 200 tokens with eight choices of three.
class ManyChoices final : public Task {
 public:
  std::string name() const override { return "choices"; }
  std::string kind() const override { return "test"; }
  Metric metric() const override { return Metric::nats_per_token; }
  PageKey key() const override { return {8, 8}; }
  size_t size() const override { return 5; }
  std::string where(size_t item) const override { return fmt::format("choices:{}", item + 1); }
  std::vector<Ask> asks(size_t item) const override {
    std::vector<Ask> asks(8);
    for (size_t i = 0; i < asks.size(); ++i) {
      asks[i].ids = fake_ids(200, static_cast<unsigned>(item));
      const std::vector<int32_t> choice = fake_ids(3, static_cast<unsigned>(100 + i));
      asks[i].ids.insert(asks[i].ids.end(), choice.begin(), choice.end());
      asks[i].score_from = 200;
    }
    return asks;
  }
  Record judge(size_t, std::span<const Outcome> outcomes) const override {
    Record r;
    for (const Outcome& o : outcomes) {
      EXPECT_EQ(o.logprobs.size(), 3u);
      for (float p : o.logprobs) r.value -= static_cast<double>(p);
    }
    return r;
  }
  bool binary() const override { return false; }
};

TEST(Runner, ChoicesOfAQuestionShareItsPages) {
  const ManyChoices task;
  EngineOptions with = engine_options(8), without = with;
  without.keep_prefixes = false;
  Rig rig(Mode::host, with), plain(Mode::host, without);
  ResultsFile none;
  RunOptions o;
  o.at_once = 64;
  const RunResult shared = run_task(rig.engine.get(), task, kLabel, none, o);
  const RunResult alone = run_task(plain.engine.get(), task, kLabel, none, o);
  EXPECT_TRUE(same(shared.records, alone.records));
  // Three whole pages of the question are computed once.
  EXPECT_EQ(rig.engine->stats().reused_tokens, 5 * 7 * 192);
  EXPECT_EQ(rig.engine->stats().prompt_tokens, 5 * (203 + 7 * 11));
  EXPECT_EQ(shared.progress.tokens_computed, 5 * 8 * 203);
}

TEST(Runner, LongPromptsWaitForThoseInFront) {
  const TwoAsks task(12);
  for (int64_t tokens : {1, 100, 100000}) {
    Rig rig(Mode::host, engine_options(8));
    ResultsFile none;
    RunOptions o;
    o.at_once = 100;
    o.prompt_tokens = tokens;
    o.watch_selection = true;
    int most = 0;
    o.progress = [&](const Progress&) {
      const EngineSnapshot s = rig.engine->snapshot();
      most = std::max(most, s.running + s.waiting);
    };
    const RunResult r = run_task(rig.engine.get(), task, kLabel, none, o);
    EXPECT_EQ(r.records.size(), 12u);
    // An item's prompts take one step, its answer four more: those of five items, and two prompts.
    if (tokens == 1) {
      EXPECT_LE(most, 7);
    }
    if (tokens == 100000) {
      EXPECT_GT(most, 12);
    }
  }
}

TEST(Runner, ProgressCountsTokens) {
  const TwoAsks task(10);
  int64_t all = 0;
  for (size_t i = 0; i < 10; ++i)
    for (const Ask& ask : task.asks(i)) all += static_cast<int64_t>(ask.ids.size());
  Rig rig(Mode::host, engine_options());
  ResultsFile none;
  RunOptions o;
  o.watch_selection = true;
  Progress last;
  o.progress = [&](const Progress& p) {
    EXPECT_GE(p.tokens_done, last.tokens_done);
    EXPECT_EQ(p.tokens, all);
    last = p;
  };
  run_task(rig.engine.get(), task, kLabel, none, o);
  EXPECT_EQ(last.tokens_done, all);
  EXPECT_EQ(last.tokens_computed, all);
  EXPECT_EQ(last.done, 10u);
}

}  // namespace
}  // namespace fathom::eval
