// Ranks under load: eight of them on a model of many heads, requests that come, go and give way at
// random in every layout, engines that share one folder of kept pages, and the end of everything
// when one rank fails.
#include <gmock/gmock.h>

#include <chrono>
#include <thread>

#include "runtime/ranked.h"
#include "support/checkpoint_maker.h"
#include "support/temp_folder.h"

namespace fathom::ranked {
namespace {

using test::CheckpointMaker;
using test::TempFolder;
using testing::HasSubstr;

struct Layout {
  int tensor, data;
};
constexpr Layout kLayouts[] = {{2, 1}, {1, 2}, {2, 2}};

// Two heads a rank, and 128 of 1,024 columns of each expert.
TEST(EightRanks, ChooseAlikeAndAgreeWithOneRank) {
  nlohmann::json config = CheckpointMaker::tiny().config;
  config["num_attention_heads"] = config["num_key_value_heads"] = 16;
  config["moe_intermediate_size"] = 1024;
  config["num_nextn_predict_layers"] = 0;
  TempFolder dir;
  CheckpointMaker::random(config, 3).write(dir);
  const EvalOptions o = ranks(Numerics::exact, 8);
  CheckpointOptions options;
  const auto whole = Checkpoint::load(dir.path(), options);
  options.layout = o.compute.layout;
  const auto parts = Checkpoint::load(dir.path(), options);
  ASSERT_TRUE(experts_by_columns(whole->config(), options.layout));
  // More than 7 blocks of 64 rows in a step: the indexer's are shared out.
  const std::vector<Chosen> all = choices(whole->config(), parts->rank_weights(), o, 520, 512);
  const Chosen one =
      choices(whole->config(), whole->weights(), ranks(Numerics::exact, 1), 520, 512)[0];
  ASSERT_EQ(all.size(), 8u);
  for (const Chosen& rank : all) EXPECT_EQ(rank, all[0]);
  EXPECT_EQ(all[0].picked, one.picked);
  EXPECT_EQ(all[0].experts, one.experts);
  EXPECT_LE(mean_kl(one, all[0], whole->config().vocab), 1e-8);
}

// --- random load

// Short and long prompts of few texts, so that many begin alike.
Request random_request(std::mt19937& random, Answer& to) {
  const auto roll = [&](unsigned n) { return static_cast<int>(random() % n); };
  Request r =
      request_for(random_ids(1 + roll(180), static_cast<unsigned>(roll(4)), 500), 1 + roll(24), to);
  r.sampling.seed = static_cast<uint64_t>(random());
  r.priority = roll(3);
  return r;
}

// The tokens of each request alone on one rank. Requests are drawn from `seed` as below.
std::vector<std::vector<int32_t>> alone(unsigned seed, size_t requests) {
  EngineOptions o = engine_options(Numerics::exact, 1);
  o.compute.context = 256;
  const auto engine = engine_of(o, true);
  std::mt19937 random(seed);
  std::vector<Answer> all(requests);
  std::vector<std::vector<int32_t>> ids;
  for (Answer& a : all) {
    EXPECT_TRUE(engine->submit(random_request(random, a)).ok());
    while (engine->step()) {
    }
    ids.push_back(a.ids);
  }
  return ids;
}

TEST(RanksUnderLoad, EachRequestGetsTheTokensOfOneRank) {
  constexpr unsigned kSeed = 11;
  constexpr size_t kRequests = 24;
  const auto want = alone(kSeed, kRequests);
  for (const Layout& l : kLayouts) {
    SCOPED_TRACE(fmt::format("{} x {}", l.tensor, l.data));
    EngineOptions o = group_options(Numerics::exact, l.tensor, l.data);
    o.compute.context = 256;
    o.compute.step_tokens = 100;
    o.compute.sequences = 4;
    o.cache_tokens = int64_t{256} * l.data;  // four pages a group: one request of the longest
    o.keep_prefixes = true;
    const auto engine = engine_of(o, true);
    std::mt19937 random(kSeed), when(5);
    std::vector<Answer> all(kRequests);
    std::vector<RequestId> ids;
    std::vector<bool> cancelled(kRequests);
    for (bool busy = true; busy || ids.size() < kRequests;) {
      for (int i = 0; i < 2 * l.data; ++i)
        if (ids.size() < kRequests && (!busy || when() % 3 == 0))
          ids.push_back(engine->submit(random_request(random, all[ids.size()])).value());
      if (when() % 12 == 0 && !ids.empty()) {
        const size_t i = when() % ids.size();
        cancelled[i] = all[i].finish == Finish::none || cancelled[i];
        engine->cancel(ids[i]);
      }
      busy = engine->step();
      engine->check_integrity();
    }
    size_t whole = 0;
    for (size_t i = 0; i < kRequests; ++i) {
      std::vector<int32_t> due = want[i];
      if (all[i].finish == Finish::cancelled) {
        EXPECT_TRUE(cancelled[i]) << i;
        due.resize(std::min(due.size(), all[i].ids.size()));
      } else {
        EXPECT_EQ(all[i].finish, Finish::length) << i << ": " << all[i].error;
        ++whole;
      }
      EXPECT_EQ(all[i].ids, due) << "request " << i;
    }
    EXPECT_GT(whole, kRequests / 2);
    EXPECT_LT(whole, kRequests);
    const EngineSnapshot s = engine->snapshot();
    EXPECT_GT(s.preemptions, 0);
    EXPECT_EQ(s.running + s.waiting, 0);
    EXPECT_EQ(s.free_pages, s.pages);
  }
}

// Two engines of two groups each write to one folder and read from it at the same time.
TEST(RanksUnderLoad, EnginesThatShareAFolderDoNoHarm) {
  TempFolder dir;
  std::mutex mutex;
  std::vector<std::string> problems;
  auto answers = [&](bool folder) {
    EngineOptions o = group_options(Numerics::fp8, 1, 2);
    o.compute.context = 256;
    o.cache_tokens = 1024;
    o.keep_prefixes = true;
    if (folder) {
      o.cache_dir = dir.path();
      o.checkpoint = digest("tiny", 4);
      o.cache_dir_patience = std::chrono::milliseconds(20);
    }
    o.on_cache_problem = [&](const std::string& what) {
      std::lock_guard lock(mutex);
      problems.push_back(what);
    };
    const auto engine = engine_of(o, true);
    std::vector<Answer> all(12);
    for (size_t i = 0; i < all.size(); ++i)  // each text four times
      EXPECT_TRUE(
          engine->submit(request_for(random_ids(200, static_cast<unsigned>(i % 3), 500), 3, all[i]))
              .ok());
    while (engine->step()) engine->check_integrity();
    std::vector<std::vector<int32_t>> ids;
    for (const Answer& a : all) ids.push_back(a.ids);
    return std::pair(ids, engine->cache_dir_stats());
  };
  const auto want = answers(false).first;
  for (int round = 0; round < 2; ++round) {
    std::pair<std::vector<std::vector<int32_t>>, PrefixStoreStats> got[2];
    std::thread other([&] { got[1] = answers(true); });
    got[0] = answers(true);
    other.join();
    for (const auto& [ids, stats] : got) {
      EXPECT_EQ(ids, want);
      EXPECT_EQ(stats.damaged + stats.failures, 0);
      EXPECT_EQ(stats.read > 0 || round == 0, true) << "nothing was found again";
    }
  }
  EXPECT_THAT(problems, testing::IsEmpty());
}

// --- a rank that fails

// As generate steps an engine and as serve runs it: every request hears of it and all threads end.
// The last rank fails in its step `step`, when the other group may have nothing to do.
void expect_end(const Layout& l, size_t requests, int step, bool run) {
  SCOPED_TRACE(
      fmt::format("{} x {}, {} requests, {}", l.tensor, l.data, requests, run ? "run" : "stepped"));
  const auto begin = std::chrono::steady_clock::now();
  const int last = l.tensor * l.data - 1;
  std::vector<Answer> all(requests);
  std::string thrown;
  {
    EngineOptions o = group_options(Numerics::bf16, l.tensor, l.data);
    o.wrap = [&](Ops& ops, int rank) -> std::unique_ptr<Ops> {
      if (rank != last) return nullptr;
      return std::make_unique<FailingOps>(ops, step, true);
    };
    const auto engine = engine_of(o);
    for (size_t i = 0; i < requests; ++i)
      ASSERT_TRUE(
          engine->submit(request_for(random_ids(70, static_cast<unsigned>(i), 4000), 40, all[i]))
              .ok());
    try {
      if (run) engine->run(std::stop_token());
      while (engine->step()) {
      }
    } catch (const Error& e) {
      thrown = e.what();
    }
    Answer late;
    EXPECT_EQ(engine->submit(request_for({1, 2}, 1, late)).failure().status, 503);
    EXPECT_TRUE(engine->snapshot().failed);
  }
  EXPECT_EQ(thrown, fmt::format("rank {} of {}: out of memory", last, last + 1));
  for (const Answer& a : all) {
    EXPECT_EQ(a.finish, Finish::error);
    EXPECT_EQ(a.error, thrown);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
}

TEST(RankFailure, EndsEveryRequestAndEveryThreadInEveryLayout) {
  for (const Layout& l : kLayouts)
    for (bool run : {false, true}) expect_end(l, 7, 3, run);
}

}  // namespace
}  // namespace fathom::ranked
