// The engine on a device that keeps books instead of computing (fake_runner.h): scheduling, queues,
// failures and steps that overlap, fast enough for thousands of requests.
#include <gmock/gmock.h>

#include <atomic>
#include <filesystem>
#include <map>
#include <mutex>
#include <random>
#include <thread>

#include "runtime/fake_engine.h"
#include "support/temp_folder.h"

namespace fathom {
namespace {

using testing::HasSubstr;

class EngineOnFake : public FakeEngineTest {};
INSTANTIATE_TEST_SUITE_P(Modes, EngineOnFake, all_modes(), mode_name);

// A request of any kind.
Request random_request(std::mt19937& random, int64_t most) {
  auto roll = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  // Few texts, so that many begin alike.
  Request r =
      fake_request(fake_ids(1 + roll(static_cast<int>(most) - 1), static_cast<unsigned>(roll(3))),
                   1 + roll(40), roll(3) == 0 ? 0.0f : 1.0f);
  r.sampling.seed = random();
  r.priority = roll(3);
  if (roll(3) == 0) r.stop_ids = {roll(kFakeVocab), roll(kFakeVocab), 100000};
  if (roll(4) == 0) {
    r.rules.frequency_penalty = 1.5f;
    r.rules.repetition_penalty = 1.2f;
    r.rules.bias = {{roll(kFakeVocab), 3.0f}};
    r.rules.min_new_tokens = std::min<int64_t>(3, r.max_new_tokens);
  }
  if (roll(4) == 0) {
    r.logprobs = roll(3);
    r.prompt_logprobs = roll(2) == 0;
    if (r.prompt_logprobs) r.prompt_logprobs_from = 1 + roll(static_cast<int>(r.ids.size()));
  }
  r.keep_selection = roll(4) == 0;
  return r;
}

struct LoadCounts {
  int preemptions = 0, carried_ids = 0;
  int64_t drafts = 0, accepted = 0;
  int read = 0, damaged = 0;  // pages of the disk
};

// Requests come and go at random while pages are few. Every one ends, each answer is what its text
// alone says (or the beginning of it, where it was cancelled), and no page is lost. `dir`: where
// pages are kept on disk; empty: nowhere.
void random_load(FakeMode mode, unsigned seed, LoadCounts& counts, const std::string& dir = {},
                 int speculative_tokens = 0) {
  SCOPED_TRACE(testing::Message() << name_of(mode) << ", seed " << seed);
  std::mt19937 random(seed);
  auto roll = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  const int pages = 4 + roll(8);
  const int64_t context = int64_t{64} * (3 + roll(2));
  EngineOptions o;
  o.compute.sequences = 1 + roll(6);
  o.compute.step_tokens = 1 + roll(200);
  o.keep_prefixes = roll(2) == 0;
  o.compute.batch_invariant = roll(2) == 0;
  o.keep_selection = true;
  o.compute.speculative_tokens = speculative_tokens;
  o.regulate_drafts = seed % 3 == 0;  // this device takes no time, so any number may be chosen
  o.overlap = roll(5) > 0;
  o.compute.threads = 1 + roll(3);
  if (!dir.empty()) {
    o.keep_prefixes = true;
    o.cache_dir = dir;
    o.checkpoint = {1, 2};
    o.cache_dir_staging = 1;         // two pages
    o.cache_dir_bytes = 10'000'000;  // a few more than memory has
    if (roll(3) == 0) o.cache_dir_patience = std::chrono::milliseconds(0);
  }
  Rig rig(mode, o, pages, context);
  if (seed % 6 == 0) rig.runner->draft_time = std::chrono::microseconds(300);  // or all too long
  constexpr size_t kRequests = 25;
  std::vector<FakeAnswer> answers(kRequests);
  std::vector<Request> asked;
  std::vector<RequestId> ids;
  int steps = 0;
  for (bool busy = true; busy || asked.size() < kRequests;) {
    ASSERT_LT(++steps, 20000);
    if (asked.size() < kRequests && (!busy || roll(3) == 0)) {
      Request r = random_request(random, context - 1);
      asked.push_back(r);
      collect_into(r, answers[asked.size() - 1]);
      ids.push_back(rig.engine->submit(std::move(r)).value());
    }
    if (roll(15) == 0 && !ids.empty()) rig.engine->cancel(ids[random() % ids.size()]);
    busy = rig.engine->step();
    rig.engine->check_integrity();
    const EngineSnapshot s = rig.engine->snapshot();
    EXPECT_LE(s.running, o.compute.sequences);
  }
  for (size_t i = 0; i < kRequests; ++i) {
    const FakeAnswer& a = answers[i];
    std::vector<int32_t> want = fake_answer(asked[i], context);
    ASSERT_NE(a.finish, Finish::none) << i;
    ASSERT_NE(a.finish, Finish::error) << a.error;
    if (a.finish == Finish::cancelled) want.resize(std::min(want.size(), a.ids.size()));
    ASSERT_EQ(a.ids, want) << "request " << i;
  }
  const EngineSnapshot s = rig.engine->snapshot();
  EXPECT_EQ(s.free_pages, pages);
  EXPECT_EQ(s.running + s.waiting, 0);
  counts.preemptions += static_cast<int>(s.preemptions);
  counts.carried_ids += rig.runner->carried_ids;
  counts.drafts += s.speculation.draft_tokens;
  counts.accepted += s.speculation.accepted_tokens;
  counts.read += static_cast<int>(rig.engine->cache_dir_stats().read);
  counts.damaged += static_cast<int>(rig.engine->cache_dir_stats().damaged);
}

TEST_P(EngineOnFake, RandomLoadGivesEachItsOwnAnswer) {
  LoadCounts counts;
  for (unsigned seed = 0; seed < 40; ++seed) {
    random_load(GetParam(), seed, counts);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(counts.preemptions, 20);
  if (GetParam() == FakeMode::host)
    EXPECT_EQ(counts.carried_ids, 0);
  else
    EXPECT_GT(counts.carried_ids, 1000);
}

// Drafts change neither an answer nor who gets one, though pages run out at every turn, texts share
// pages, and rules, masks and log-probabilities make the host draw. The device checks that the MTP
// block's rows are complete wherever it is asked for drafts.
TEST_P(EngineOnFake, RandomLoadWithDrafts) {
  LoadCounts counts;
  test::TempFolder folder;
  for (unsigned seed = 0; seed < 24; ++seed) {
    random_load(GetParam(), seed, counts, seed % 4 == 3 ? folder.path() : std::string(),
                1 + static_cast<int>(seed) % kMaxSpeculativeTokens);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(counts.preemptions, 10);
  EXPECT_GT(counts.drafts, 1000);
  EXPECT_GT(counts.accepted, 300);
  EXPECT_LT(counts.accepted, counts.drafts);
  EXPECT_GT(counts.read, 0);
}

// Where drafts are not worth it, steps overlap soon, as without speculation. Pages without the
// block's rows are found like others, and whoever tries drafts again computes them once more: the
// device checks that no row is missing then.
TEST_P(EngineOnFake, DraftsThatAreNotWorthItEnd) {
  EngineOptions o;
  o.compute.speculative_tokens = 1;
  o.keep_prefixes = o.compute.batch_invariant = true;
  Rig rig(GetParam(), o);
  rig.runner->draft_time = std::chrono::microseconds(300);
  rig.runner->right_of_ten = 0;
  auto ask = [&](const std::vector<int32_t>& ids, int64_t tokens) {
    const Request r = fake_request(ids, tokens, 0);
    Request asked = r;
    FakeAnswer a;
    collect_into(asked, a);
    EXPECT_TRUE(rig.engine->submit(std::move(asked)).ok());
    while (rig.engine->step()) rig.engine->check_integrity();
    EXPECT_EQ(a.ids, fake_answer(r, 512));
    return a.ids;
  };
  std::vector<int32_t> text = fake_ids(70, 1);
  for (int32_t id : ask(text, 400)) text.push_back(id);
  EXPECT_LT(rig.runner->draft_calls, 200);
  EXPECT_EQ(rig.runner->carried_ids > 200, GetParam() != FakeMode::host);

  const int calls = rig.runner->draft_calls;
  const int64_t reused = rig.engine->stats().reused_tokens;
  text.resize(300);
  ask(text, 20);
  EXPECT_EQ(rig.runner->draft_calls, calls);
  EXPECT_EQ(rig.engine->stats().reused_tokens - reused, 4 * kPageRows);

  rig.runner->draft_time = std::chrono::microseconds(0);
  rig.runner->right_of_ten = 10;
  for (unsigned seed = 2; seed < 8 && rig.runner->draft_calls == calls; ++seed) {
    ask(fake_ids(20, seed), 300);
    ask(text, 212);
  }
  EXPECT_GT(rig.runner->draft_calls, calls);
}

// With pages on disk that come and go, some of them damaged.
TEST_P(EngineOnFake, RandomLoadWithADisk) {
  test::TempFolder folder;
  LoadCounts counts;
  std::mt19937 random(1);
  for (unsigned seed = 0; seed < 8; ++seed) {
    random_load(GetParam(), seed, counts, folder.path());
    if (HasFatalFailure()) return;
    for (const auto& file : std::filesystem::directory_iterator(folder.path())) {
      if (random() % 4) continue;
      std::string bytes = test::read_file(file.path());
      bytes[random() % 600] ^= 1;
      test::write_file(file.path(), bytes);
    }
  }
  EXPECT_GT(counts.read, 0);
  EXPECT_GT(counts.damaged, 0);
}

TEST(LongEngineOnFake, RandomLoadGivesEachItsOwnAnswer) {
  LoadCounts counts;
  for (FakeMode mode : {FakeMode::host, FakeMode::eager, FakeMode::lazy})
    for (unsigned seed = 100; seed < 2000; ++seed) {
      random_load(mode, seed, counts, {}, static_cast<int>(seed) % (kMaxSpeculativeTokens + 1));
      if (HasFatalFailure()) return;
    }
}

// Greedy decodes overlap: nearly every id is carried, and a stop is found out one step too late.
TEST_P(EngineOnFake, OverlapDiscardsTheTokenBehindAStop) {
  Rig rig(GetParam());
  Request r = fake_request(fake_ids(70, 1), 100, 0);
  const std::vector<int32_t> all = fake_answer(r, 512);
  r.stop_ids = {all[30]};
  const std::vector<int32_t> want = fake_answer(r, 512);
  FakeAnswer a;
  collect_into(r, a);
  ASSERT_TRUE(rig.engine->submit(std::move(r)).ok());
  while (rig.engine->step()) rig.engine->check_integrity();
  EXPECT_EQ(a.ids, want);
  EXPECT_EQ(a.finish, Finish::stop);
  const int steps = static_cast<int>(want.size());
  EXPECT_EQ(rig.runner->launches, GetParam() == FakeMode::host ? steps : steps + 1);
  EXPECT_EQ(rig.engine->snapshot().free_pages, 64);
}

// The length is known beforehand: no step is launched in vain.
TEST_P(EngineOnFake, ALastTokenIsNotRunPast) {
  Rig rig(GetParam());
  FakeAnswer a;
  Request r = fake_request(fake_ids(10, 1), 5);
  collect_into(r, a);
  ASSERT_TRUE(rig.engine->submit(std::move(r)).ok());
  while (rig.engine->step()) {
  }
  EXPECT_EQ(a.ids.size(), 5u);
  EXPECT_EQ(rig.runner->launches, 5);
}

TEST_P(EngineOnFake, CancelFreesPagesWithinOneStep) {
  Rig rig(GetParam());
  FakeAnswer a, b;
  Request long_one = fake_request(fake_ids(200, 1), 300),
          other = fake_request(fake_ids(20, 2), 300);
  collect_into(long_one, a);
  collect_into(other, b);
  const RequestId id = rig.engine->submit(std::move(long_one)).value();
  ASSERT_TRUE(rig.engine->submit(std::move(other)).ok());
  for (int i = 0; i < 6; ++i) ASSERT_TRUE(rig.engine->step());
  EXPECT_EQ(rig.engine->snapshot().free_pages, 64 - 4 - 1);
  rig.engine->cancel(id);
  ASSERT_TRUE(rig.engine->step());
  EXPECT_EQ(a.finish, Finish::cancelled);
  EXPECT_EQ(rig.engine->snapshot().free_pages, 64 - 1);
  EXPECT_EQ(b.finish, Finish::none);
}

TEST_P(EngineOnFake, AShortPromptDoesNotWaitForALongOne) {
  EngineOptions o;
  o.compute.step_tokens = 512;
  Rig rig(GetParam(), o, 128, 4096);
  FakeAnswer slow, quick;
  Request r = fake_request(fake_ids(3000, 1), 5);
  collect_into(r, slow);
  ASSERT_TRUE(rig.engine->submit(std::move(r)).ok());
  ASSERT_TRUE(rig.engine->step());
  ASSERT_TRUE(rig.engine->step());
  r = fake_request(fake_ids(100, 2), 50);
  collect_into(r, quick);
  ASSERT_TRUE(rig.engine->submit(std::move(r)).ok());
  const int before = rig.runner->finishes;
  while (quick.ids.empty()) ASSERT_TRUE(rig.engine->step());
  // One that was under way when it came, and its own.
  EXPECT_LE(rig.runner->finishes - before, 2);
  EXPECT_TRUE(slow.ids.empty());
  int steps = 0;
  for (; slow.ids.empty(); ++steps) ASSERT_TRUE(rig.engine->step());
  EXPECT_LE(steps, 7) << "the long prompt stood still";
  EXPECT_GE(static_cast<int>(quick.ids.size()), steps - 1) << "a decode waited for a prompt";
}

TEST_P(EngineOnFake, ABetterPriorityIsServedFirst) {
  EngineOptions o;
  o.compute.sequences = 1;
  Rig rig(GetParam(), o);
  std::vector<int> ended;
  auto submit = [&](int name, int priority) {
    Request r = fake_request(fake_ids(20, static_cast<unsigned>(name)), 20);
    r.priority = priority;
    r.sink = [&ended, name](const TokenEvent& e) {
      if (e.finish == Finish::length) ended.push_back(name);
    };
    ASSERT_TRUE(rig.engine->submit(std::move(r)).ok());
  };
  submit(1, 5);
  for (int i = 0; i < 4; ++i) rig.engine->step();
  submit(2, 5);
  submit(3, 0);
  submit(4, -1);
  while (rig.engine->step()) rig.engine->check_integrity();
  EXPECT_EQ(ended, (std::vector<int>{4, 3, 1, 2}));
  EXPECT_EQ(rig.engine->snapshot().preemptions, 1);
}

std::vector<int32_t> with_tail(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// Pages that all begin with cost a newcomer nothing, also when one of the others has to go.
TEST_P(EngineOnFake, ABetterPriorityComesInWhereAllShareTheirBeginning) {
  EngineOptions o;
  o.compute.sequences = 4;
  o.compute.step_tokens = 2048;
  o.keep_prefixes = true;
  Rig rig(GetParam(), o, 40, 30 * 64);
  const std::vector<int32_t> start = fake_ids(24 * 64, 1);
  std::vector<FakeAnswer> answers(5);
  std::vector<std::vector<int32_t>> want;
  auto submit = [&](size_t i, int priority) {
    Request r = fake_request(with_tail(start, fake_ids(10, static_cast<unsigned>(10 + i))), 30);
    r.priority = priority;
    want.push_back(fake_answer(r, 30 * 64));
    collect_into(r, answers[i]);
    ASSERT_TRUE(rig.engine->submit(std::move(r)).ok());
  };
  submit(0, 5);
  while (answers[0].ids.empty()) ASSERT_TRUE(rig.engine->step());
  for (size_t i = 1; i < 4; ++i) submit(i, 5);
  while (answers[3].ids.empty()) ASSERT_TRUE(rig.engine->step());
  ASSERT_EQ(rig.engine->snapshot().free_pages, 12);
  submit(4, 0);
  for (int i = 0; i < 3 && answers[4].ids.empty(); ++i) ASSERT_TRUE(rig.engine->step());
  EXPECT_FALSE(answers[4].ids.empty());
  EXPECT_EQ(rig.engine->snapshot().preemptions, 1);
  while (rig.engine->step()) rig.engine->check_integrity();
  for (size_t i = 0; i < answers.size(); ++i) EXPECT_EQ(answers[i].ids, want[i]) << i;
}

// What a request finds again of its own, after it was put out, is not what it found of others.
TEST_P(EngineOnFake, ReuseIsCountedOnce) {
  EngineOptions o;
  o.compute.sequences = 1;
  o.keep_prefixes = true;
  o.compute.batch_invariant = true;  // pages of answers are kept, too
  Rig rig(GetParam(), o);
  RequestStats slow, quick;
  auto submit = [&](unsigned seed, int64_t tokens, int priority, RequestStats& stats) {
    Request r = fake_request(fake_ids(10, seed), tokens);
    r.priority = priority;
    r.sink = [&stats](const TokenEvent& e) { stats = *e.stats; };
    ASSERT_TRUE(rig.engine->submit(std::move(r)).ok());
  };
  submit(1, 300, 5, slow);
  while (slow.generated_tokens < 210) ASSERT_TRUE(rig.engine->step());
  submit(2, 5, 0, quick);
  while (rig.engine->step()) rig.engine->check_integrity();
  EXPECT_EQ(slow.preemptions, 1);
  EXPECT_EQ(slow.generated_tokens, 300);
  EXPECT_EQ(slow.reused_tokens, 0);
  EXPECT_EQ(rig.engine->snapshot().prefix_queries, 20);
  EXPECT_EQ(rig.engine->snapshot().prefix_hits, 0);
  // It was not computed again, either.
  EXPECT_LT(rig.engine->snapshot().prompt_tokens + rig.engine->snapshot().generated_tokens, 400);
}

// Behind the first request for which there are no pages nobody is looked up.
TEST(EngineOnFakeHost, PlansLookUpNoMoreThanTheyNeed) {
  EngineOptions o;
  o.compute.sequences = 16;
  o.compute.step_tokens = 4096;
  o.keep_prefixes = true;
  Rig rig(FakeMode::host, o, 64, 45 * 64);
  const std::vector<int32_t> start = fake_ids(20 * 64, 1);
  ASSERT_TRUE(rig.engine->submit(fake_request(start, 1)).ok());
  while (rig.engine->step()) {
  }
  ASSERT_TRUE(rig.engine->submit(fake_request(fake_ids(40 * 64, 2), 20)).ok());
  ASSERT_TRUE(rig.engine->step());
  for (unsigned i = 0; i < 10; ++i)
    ASSERT_TRUE(
        rig.engine->submit(fake_request(with_tail(start, fake_ids(15 * 64, 10 + i)), 2)).ok());
  const int64_t before = rig.engine->stats().pages_looked_up;
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(rig.engine->step());
  EXPECT_EQ(rig.engine->snapshot().waiting, 10);
  EXPECT_EQ(rig.engine->stats().pages_looked_up - before, 5 * 20);
  while (rig.engine->step()) rig.engine->check_integrity();
}

// Whoever has come in, or will with the next plan, does not count as waiting.
TEST_P(EngineOnFake, TheQueueBeginsWhereThePlacesEnd) {
  EngineOptions o;
  o.compute.sequences = 4;
  o.max_waiting = 1;
  Rig rig(GetParam(), o);
  std::vector<FakeAnswer> answers(6);
  size_t accepted = 0, refused = 0;
  auto submit = [&] {
    Request r = fake_request(fake_ids(20, 1), 3);
    if (accepted < answers.size()) collect_into(r, answers[accepted]);
    const Result<RequestId> id = rig.engine->submit(std::move(r));
    ++(id.ok() ? accepted : refused);
    if (!id.ok()) {
      EXPECT_THAT(id.failure().message, HasSubstr("1 requests wait already: at most 1"));
    }
  };
  submit();
  rig.runner->on_launch = [&] {  // the first chunk is under way
    EXPECT_EQ(rig.engine->snapshot().running, 1);
    EXPECT_EQ(rig.engine->snapshot().waiting, 0);
    while (refused == 0 && accepted < answers.size()) submit();
    rig.runner->on_launch = nullptr;
  };
  ASSERT_TRUE(rig.engine->step());
  EXPECT_EQ(accepted, 5u);  // four places, and one that waits
  EXPECT_EQ(refused, 1u);
  while (rig.engine->step()) {
  }
  submit();
  while (rig.engine->step()) {
  }
  EXPECT_EQ(accepted, 6u);
  for (const FakeAnswer& a : answers) EXPECT_EQ(a.finish, Finish::length);
}

TEST_P(EngineOnFake, TheQueueIsBounded) {
  EngineOptions o;
  o.compute.sequences = 1;
  o.max_waiting = 2;
  Rig rig(GetParam(), o);
  std::vector<FakeAnswer> answers(4);
  auto submit = [&](FakeAnswer& a) {
    Request r = fake_request(fake_ids(20, 1), 3);
    collect_into(r, a);
    return rig.engine->submit(std::move(r));
  };
  ASSERT_TRUE(submit(answers[0]).ok());
  rig.engine->step();  // it runs, and waits no more
  ASSERT_TRUE(submit(answers[1]).ok());
  ASSERT_TRUE(submit(answers[2]).ok());
  EXPECT_EQ(rig.engine->snapshot().waiting, 2);
  FakeAnswer refused;
  const Result<RequestId> r = submit(refused);
  ASSERT_FALSE(r.ok());
  EXPECT_EQ(r.failure().status, 429);
  EXPECT_THAT(r.failure().message, HasSubstr("2 requests wait already: at most 2"));
  while (rig.engine->step()) {
  }
  ASSERT_TRUE(submit(answers[3]).ok());
  while (rig.engine->step()) {
  }
  for (const FakeAnswer& a : answers) EXPECT_EQ(a.finish, Finish::length);
  EXPECT_EQ(refused.finish, Finish::none);
}

TEST_P(EngineOnFake, AFailedDeviceIsToldToAllAndToThoseWhoComeLater) {
  for (bool at_launch : {true, false}) {
    test::TempFolder folder;
    EngineOptions o;
    o.compute.sequences = 2;
    o.keep_prefixes = true;
    o.cache_dir = folder.path();
    o.checkpoint = {1, 2};
    o.cache_dir_staging = 1;  // pages are left to store when it happens
    Rig rig(GetParam(), o);
    (at_launch ? rig.runner->fail_launch : rig.runner->fail_finish) = 3;
    std::vector<FakeAnswer> answers(5);
    for (FakeAnswer& a : answers) {
      Request r = fake_request(fake_ids(400, 1), 50);
      collect_into(r, a);
      ASSERT_TRUE(rig.engine->submit(std::move(r)).ok());
    }
    EXPECT_THROW(while (rig.engine->step()){}, Error);
    for (const FakeAnswer& a : answers) {
      EXPECT_EQ(a.finish, Finish::error);
      EXPECT_THAT(a.error, HasSubstr("the fake device fell off"));
    }
    EXPECT_TRUE(rig.engine->snapshot().failed);
    EXPECT_EQ(rig.engine->snapshot().running + rig.engine->snapshot().waiting, 0);
    const Result<RequestId> late = rig.engine->submit(fake_request({1}, 5));
    ASSERT_FALSE(late.ok());
    EXPECT_EQ(late.failure().status, 503);
    EXPECT_FALSE(rig.engine->step());
    rig.engine->check_integrity();
  }
}

TEST_P(EngineOnFake, ReportsItsSteps) {
  EngineOptions o;
  std::vector<StepReport> reports;
  o.on_step = [&](const StepReport& r) { reports.push_back(r); };
  Rig rig(GetParam(), o);
  ASSERT_TRUE(rig.engine->submit(fake_request(fake_ids(20, 1), 4)).ok());
  while (rig.engine->step()) {
  }
  ASSERT_EQ(reports.size(), 4u);
  EXPECT_EQ(reports[0].tokens, 20);
  EXPECT_EQ(reports[0].decodes, 0);
  for (size_t i = 1; i < 4; ++i) {
    EXPECT_EQ(reports[i].tokens, 1);
    EXPECT_EQ(reports[i].decodes, 1);
    EXPECT_EQ(reports[i].sequences, 1);
    EXPECT_GE(reports[i].seconds, 0);
    EXPECT_GE(reports[i].host_seconds, 0);
  }
  const EngineSnapshot s = rig.engine->snapshot();
  EXPECT_EQ(s.steps, 4);
  EXPECT_EQ(s.prompt_tokens, 20);
  EXPECT_EQ(s.generated_tokens, 3);
}

// Threads submit, cancel, and look at the snapshot while the engine runs on a thread of its own.
TEST_P(EngineOnFake, ManyThreadsLoseNothing) {
  EngineOptions o;
  o.compute.sequences = 4;
  o.compute.step_tokens = 100;
  o.keep_prefixes = true;
  Rig rig(GetParam(), o, 16, 256);
  Engine& engine = *rig.engine;
  std::jthread steps([&](std::stop_token stop) { engine.run(stop); });
  constexpr int kThreads = 6, kEach = 40;
  std::atomic<int> ended = 0;
  std::vector<FakeAnswer> answers(kThreads * kEach);
  std::vector<Request> asked(kThreads * kEach);
  {
    std::vector<std::jthread> clients;
    for (int c = 0; c < kThreads; ++c)
      clients.emplace_back([&, c] {
        std::mt19937 random(static_cast<unsigned>(c));
        std::vector<RequestId> mine;
        for (int i = 0; i < kEach; ++i) {
          const size_t at = static_cast<size_t>(c * kEach + i);
          Request r = random_request(random, 250);
          r.keep_selection = false;
          asked[at] = r;
          r.sink = [&, at](const TokenEvent& e) {
            if (e.token >= 0) answers[at].ids.push_back(e.token);
            if (e.finish == Finish::none) return;
            answers[at].finish = e.finish;
            ++ended;
          };
          mine.push_back(engine.submit(std::move(r)).value());
          if (random() % 4 == 0) engine.cancel(mine[random() % mine.size()]);
          EXPECT_LE(engine.snapshot().running, 4);
        }
      });
  }
  while (ended < kThreads * kEach) std::this_thread::yield();
  steps.request_stop();
  steps.join();
  while (engine.step()) {
  }
  engine.check_integrity();
  for (size_t i = 0; i < answers.size(); ++i) {
    std::vector<int32_t> want = fake_answer(asked[i], 256);
    if (answers[i].finish == Finish::cancelled)
      want.resize(std::min(want.size(), answers[i].ids.size()));
    ASSERT_EQ(answers[i].ids, want) << i;
  }
  EXPECT_EQ(engine.snapshot().free_pages, 16);
}

}  // namespace
}  // namespace fathom
