// Several ranks compute what one computes: the same tokens in exact numerics, the same picks and
// experts on every rank, the bounds of the golden files in the others; and when one rank fails, all
// requests hear of it and nothing waits.
#include <gmock/gmock.h>

#include "cache/page_file.h"
#include "runtime/ranked.h"
#include "support/checkpoint_maker.h"
#include "support/temp_folder.h"

namespace fathom::ranked {
namespace {

using test::CheckpointMaker;
using test::TempFolder;
using testing::HasSubstr;

class RanksTest : public testing::TestWithParam<int> {};

TEST_P(RanksTest, ChooseAlikeAndAgreeWithOneRank) {
  for (bool tiny : {true, false}) {
    SCOPED_TRACE(tiny ? "tiny" : "small");
    const EvalOptions o = ranks(Numerics::exact, GetParam());
    const std::vector<Chosen> all =
        choices(checkpoint(tiny).config(), rank_weights_for(tiny, o), o, 430);
    const Chosen one = choices(checkpoint(tiny).config(), checkpoint(tiny).weights(),
                               ranks(Numerics::exact, 1), 430)[0];
    for (const Chosen& rank : all) {
      EXPECT_EQ(rank.picked, all[0].picked);
      EXPECT_EQ(rank.experts, all[0].experts);
      EXPECT_EQ(rank.logits, all[0].logits);
    }
    EXPECT_EQ(all[0].picked, one.picked);
    EXPECT_EQ(all[0].experts, one.experts);
    ASSERT_EQ(all[0].logits.size(), one.logits.size());
    EXPECT_LE(mean_kl(one, all[0], checkpoint(tiny).config().vocab), 1e-8);
  }
}

// fp8 and bf16, where a sum of rounded parts is one more rounding than one rank has.
TEST_P(RanksTest, StayWithinTheBoundsOfTheGoldenFiles) {
  for (Numerics n : {Numerics::bf16, Numerics::fp8}) {
    SCOPED_TRACE(name_of(n));
    for (const char* name : {"tiny", "small-find-700"})
      expect_within_floor(Golden(name), ranks(n, GetParam()), 1);
  }
}

// A sequence in one of several groups, whose experts the others compute, too.
class GroupsTest : public testing::TestWithParam<std::pair<int, int>> {
 protected:
  static EvalOptions options(Numerics numerics) {
    const auto [tensor, data] = GetParam();
    EvalOptions o = ranks(numerics, tensor);
    o.compute.layout.data = data;
    o.compute.threads = tensor * data;
    return o;
  }
};

TEST_P(GroupsTest, AgreeWithTheOracleInExactNumerics) {
  for (const char* name : {"tiny", "small-find-700"}) {
    SCOPED_TRACE(name);
    const Summary s = summary(Golden(name).distance("exact.logits", options(Numerics::exact)));
    EXPECT_LE(s.mean, 1e-6);
    EXPECT_LE(s.max, 1e-4);
  }
}

TEST_P(GroupsTest, StayWithinTheBoundsOfTheGoldenFiles) {
  for (Numerics n : {Numerics::bf16, Numerics::fp8}) {
    SCOPED_TRACE(name_of(n));
    for (const char* name : {"tiny", "small-find-700"})
      expect_within_floor(Golden(name), options(n), 1);
  }
}

TEST_P(GroupsTest, EachLayerOnTheOraclesInputIsWithinItsFloor) {
  expect_layers_within_floor(options(Numerics::fp8));
}

INSTANTIATE_TEST_SUITE_P(Layouts, GroupsTest,
                         testing::Values(std::pair(1, 2), std::pair(1, 4), std::pair(2, 2)),
                         [](const auto& instance) {
                           return fmt::format("tp_{}_dp_{}", instance.param.first,
                                              instance.param.second);
                         });

TEST(Groups, AModelWithAnMtpBlockIsRefused) {
  EvalOptions o = options_of(Numerics::exact);
  o.compute.layout.data = 2;
  o.compute.mtp = true;
  o.compute.context = 8;
  EXPECT_THROW(Evaluator(checkpoint(true).config(), rank_weights_for(true, o), o), Error);
}

TEST_P(RanksTest, EachLayerOnTheOraclesInputIsWithinItsFloor) {
  expect_layers_within_floor(ranks(Numerics::fp8, GetParam()));
}

TEST_P(RanksTest, ChooseAlikeInEveryNumerics) {
  for (Numerics n : {Numerics::bf16, Numerics::fp8}) {
    const EvalOptions o = ranks(n, GetParam());
    const std::vector<Chosen> all =
        choices(checkpoint(false).config(), rank_weights_for(false, o), o, 320);
    for (const Chosen& rank : all) EXPECT_EQ(rank, all[0]) << name_of(n);
  }
}

INSTANTIATE_TEST_SUITE_P(Tensor, RanksTest, testing::Values(2, 4),
                         [](const auto& instance) { return fmt::format("of_{}", instance.param); });

// Files converted for any number of ranks give the bits of those that were not converted.
TEST(Ranks, ComputeTheSameFromAnyConversion) {
  const CheckpointMaker maker = CheckpointMaker::tiny();
  const EvalOptions o = ranks(Numerics::fp8, 2);
  const std::vector<Chosen> want =
      choices(checkpoint(true).config(), rank_weights_for(true, o), o, 100);
  for (int files : {2, 4}) {
    TempFolder dir;
    maker.write_converted(dir, files);
    CheckpointOptions options;
    options.layout = o.compute.layout;
    const auto c = Checkpoint::load(dir.path(), options);
    EXPECT_EQ(choices(checkpoint(true).config(), c->rank_weights(), o, 100), want)
        << files << " files";
  }
}

// --- the engine

// Prompts around a page and top-k (256), more than there are places, and one that is cancelled.
std::vector<Answer> answers(ModelEngine& engine, bool selections = false) {
  const int lengths[] = {1, 63, 64, 65, 257, 400, 130};
  std::vector<Answer> all(std::size(lengths) + 1);
  for (size_t i = 0; i < std::size(lengths); ++i) {
    Request r = request_for(random_ids(lengths[i], static_cast<unsigned>(i), 4000), 6, all[i]);
    r.keep_selection = selections;
    EXPECT_TRUE(engine.submit(std::move(r)).ok());
  }
  const RequestId gone =
      engine.submit(request_for(random_ids(300, 99, 4000), 50, all.back())).value();
  for (int step = 0; engine.step(); ++step) {
    engine.check_integrity();
    if (step == 6) engine.cancel(gone);
  }
  EXPECT_EQ(all.back().finish, Finish::cancelled);
  all.pop_back();
  return all;
}

std::vector<std::vector<int32_t>> ids_of(const std::vector<Answer>& all) {
  std::vector<std::vector<int32_t>> ids;
  for (const Answer& a : all) ids.push_back(a.ids);
  return ids;
}

// What one rank draws in exact numerics.
const std::vector<std::vector<int32_t>>& exact_answers() {
  static const auto ids = ids_of(answers(*engine_of(engine_options(Numerics::exact, 1))));
  return ids;
}

TEST(RankedEngine, DrawsTheTokensOfOneRank) {
  for (int tensor : {2, 4}) {
    SCOPED_TRACE(tensor);
    EngineOptions o = engine_options(Numerics::exact, tensor);
    o.keep_selection = true;
    const auto got = answers(*engine_of(o), true);
    EXPECT_EQ(ids_of(got), exact_answers());
    for (const Answer& a : got) EXPECT_EQ(a.selection.size(), 5u);
  }
}

TEST(RankedEngine, DependsNeitherOnBatchNorOnChunksNorOnPreemption) {
  EngineOptions o = engine_options(Numerics::fp8, 2);
  o.compute.step_tokens = 1024;
  const auto want = ids_of(answers(*engine_of(o)));
  o.compute.step_tokens = 70;
  o.compute.sequences = 3;
  EXPECT_EQ(ids_of(answers(*engine_of(o))), want);
  o.compute.context = 448;
  o.compute.sequences = 5;
  o.cache_tokens = 512;
  o.keep_prefixes = true;
  const auto tight = engine_of(o);
  EXPECT_EQ(ids_of(answers(*tight)), want);
}

// Kept pages are read from a folder into the cache of every rank.
TEST(RankedEngine, FindsStoredPagesAgainAndOthersDoNot) {
  TempFolder dir;
  EngineOptions o = engine_options(Numerics::bf16, 2);
  o.keep_prefixes = true;
  o.cache_dir = dir.path();
  o.checkpoint = digest("small", 5);
  std::vector<std::vector<int32_t>> want;
  for (bool again : {false, true}) {
    const auto engine = engine_of(o);
    Answer a;
    ASSERT_TRUE(engine->submit(request_for(random_ids(300, 1, 4000), 4, a)).ok());
    while (engine->step()) {
    }
    if (!again) want.push_back(a.ids);
    EXPECT_EQ(a.ids, want[0]);
    EXPECT_EQ(engine->stats().reused_tokens, again ? 256 : 0);
  }
  o.compute.layout.tensor = 1;  // whose sums round otherwise
  const auto engine = engine_of(o);
  Answer a;
  ASSERT_TRUE(engine->submit(request_for(random_ids(300, 1, 4000), 4, a)).ok());
  while (engine->step()) {
  }
  EXPECT_EQ(engine->stats().reused_tokens, 0);
}

// Groups of ranks that compute different sequences, alone and with ranks that share their heads.
TEST(GroupedEngine, DrawsTheTokensOfOneRank) {
  for (auto [tensor, data] : {std::pair(1, 2), std::pair(1, 3), std::pair(2, 2)}) {
    SCOPED_TRACE(fmt::format("{} x {}", tensor, data));
    EngineOptions o = group_options(Numerics::exact, tensor, data);
    o.compute.sequences = 2;
    o.keep_prefixes = true;
    const auto engine = engine_of(o);
    EXPECT_EQ(ids_of(answers(*engine)), exact_answers());
    const auto& grouped = dynamic_cast<const GroupedEngine&>(*engine);
    for (int g = 0; g < data; ++g)
      EXPECT_GT(grouped.group(g).stats().generated_tokens, 0) << "group " << g << " had no request";
  }
}

TEST(GroupedEngine, DependsNeitherOnOthersNorOnChunksNorOnPreemption) {
  for (Numerics n : {Numerics::bf16, Numerics::fp8}) {
    SCOPED_TRACE(name_of(n));
    EngineOptions o = group_options(n, 1, 2);
    o.compute.step_tokens = 1024;
    const auto want = ids_of(answers(*engine_of(o)));
    o.compute.step_tokens = 70;
    o.compute.context = 448;
    o.cache_tokens = 1024;
    o.keep_prefixes = true;
    EXPECT_EQ(ids_of(answers(*engine_of(o))), want);
  }
}

TEST(GroupedEngine, ARequestGoesWhereItsBeginningIs) {
  EngineOptions o = group_options(Numerics::bf16, 1, 2);
  o.keep_prefixes = true;
  const auto engine = engine_of(o);
  const auto& grouped = dynamic_cast<const GroupedEngine&>(*engine);
  auto run = [&](const std::vector<std::vector<int32_t>>& prompts) {
    std::vector<Answer> all(prompts.size());
    for (size_t i = 0; i < prompts.size(); ++i)
      EXPECT_TRUE(engine->submit(request_for(prompts[i], 2, all[i])).ok());
    while (engine->step()) {
    }
  };
  const std::vector<int32_t> first = random_ids(200, 1, 4000), second = random_ids(200, 2, 4000);
  run({first, second});  // one a group
  EXPECT_EQ(grouped.group(0).stats().prompt_tokens, 200);
  EXPECT_EQ(grouped.group(1).stats().prompt_tokens, 200);
  // Each alone: the emptiest group would be the first.
  std::vector<int32_t> longer = second;
  longer.push_back(5);
  run({longer});
  EXPECT_EQ(grouped.group(1).stats().reused_tokens, 192);
  EXPECT_EQ(engine->stats().reused_tokens, 192);
  EXPECT_EQ(grouped.memory().pages, 2 * grouped.group(0).memory().pages);
  EXPECT_EQ(engine->snapshot().pages, grouped.memory().pages);
}

TEST(RankedEngine, ARankThatFailsEndsEveryRequestWithTheCause) {
  for (int failing : {0, 1, 3}) {
    SCOPED_TRACE(failing);
    EngineOptions o = engine_options(Numerics::bf16, 4);
    o.wrap = [&](Ops& ops, int rank) -> std::unique_ptr<Ops> {
      if (rank != failing) return nullptr;
      return std::make_unique<FailingOps>(ops, 3);
    };
    const auto engine = engine_of(o);
    std::vector<Answer> all(7);
    for (size_t i = 0; i < all.size(); ++i)
      ASSERT_TRUE(
          engine->submit(request_for(random_ids(90, static_cast<unsigned>(i), 4000), 9, all[i]))
              .ok());
    std::string thrown;
    try {
      while (engine->step()) {
      }
    } catch (const Error& e) {
      thrown = e.what();
    }
    const std::string cause = fmt::format("rank {} of 4: out of memory", failing);
    EXPECT_EQ(thrown, cause);
    for (const Answer& a : all) {
      EXPECT_EQ(a.finish, Finish::error);
      EXPECT_EQ(a.error, cause);
    }
    Answer late;
    const auto refused = engine->submit(request_for({1, 2}, 1, late));
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.failure().status, 503);
  }
}

// A rank of one group ends the requests of all: their experts are shared.
TEST(GroupedEngine, ARankThatFailsEndsEveryRequestWithTheCause) {
  for (int failing : {0, 3}) {
    EngineOptions o = group_options(Numerics::bf16, 2, 2);
    o.wrap = [&](Ops& ops, int rank) -> std::unique_ptr<Ops> {
      if (rank != failing) return nullptr;
      return std::make_unique<FailingOps>(ops, 3);
    };
    const auto engine = engine_of(o);
    std::vector<Answer> all(7);
    for (size_t i = 0; i < all.size(); ++i)
      ASSERT_TRUE(
          engine->submit(request_for(random_ids(90, static_cast<unsigned>(i), 4000), 9, all[i]))
              .ok());
    EXPECT_THROW(while (engine->step()){}, Error);
    for (const Answer& a : all) {
      EXPECT_EQ(a.finish, Finish::error);
      EXPECT_THAT(a.error, HasSubstr(fmt::format("rank {} of 4: out of memory", failing)));
    }
    Answer late;
    EXPECT_EQ(engine->submit(request_for({1, 2}, 1, late)).failure().status, 503);
  }
}

TEST(RankedEngine, AnErrorWhileRanksAreMadeReachesTheCaller) {
  EngineOptions o = engine_options(Numerics::bf16, 2);
  o.compute.layout.tensor = 8;
  EXPECT_THROW(engine_of(o), Error);
  o = engine_options(Numerics::bf16, 2);
  o.wrap = [](Ops&, int rank) -> std::unique_ptr<Ops> {
    if (rank == 1) fail("no memory for it");
    return nullptr;
  };
  try {
    engine_of(o);
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "rank 1 of 2: no memory for it");
  }
}

}  // namespace
}  // namespace fathom::ranked
