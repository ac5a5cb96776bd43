// Pages of prompts that are found again, in memory and on disk: answers, and the rows themselves,
// must be what they are without.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <future>
#include <map>
#include <random>

#include "base/error.h"
#include "model/checkpoint.h"
#include "runtime/cache_origin.h"
#include "runtime/engine.h"
#include "runtime/small_model.h"
#include "support/temp_folder.h"

namespace fathom {
namespace {

using test::random_ids;
using test::small;

namespace fs = std::filesystem;
using testing::HasSubstr;

const std::string kModel = std::string(FATHOM_SOURCE_DIR) + "/models/small";

EngineOptions prefix_options(int chunk = 512) {
  EngineOptions o;
  o.compute.threads = 1;
  o.compute.context = 1024;
  o.compute.step_tokens = chunk;
  o.keep_prefixes = true;
  return o;
}

EngineOptions with_disk(EngineOptions o, const std::string& dir) {
  o.cache_dir = dir;
  o.checkpoint = checkpoint_digest(kModel);
  // A machine that is busy must not make the engine compute what these tests expect from the disk.
  o.cache_dir_patience = std::chrono::minutes(1);
  return o;
}

std::vector<int32_t> joined(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

struct PrefixAnswer {
  std::vector<int32_t> ids;
  int64_t reused = 0;
  bool ended = false;
};

void submit(Engine& engine, const std::vector<int32_t>& ids, PrefixAnswer& a, int64_t tokens = 6) {
  Request r;
  r.ids = ids;
  r.max_new_tokens = tokens;
  r.sampling.temperature = 1;
  r.sampling.seed = 5;
  r.sink = [&a](const TokenEvent& e) {
    if (e.token >= 0) a.ids.push_back(e.token);
    a.reused = e.stats->reused_tokens;
    a.ended = e.finish != Finish::none;
  };
  ASSERT_TRUE(engine.submit(std::move(r)).ok());
}

void run(Engine& engine) {
  while (engine.step()) engine.check_integrity();
}

PrefixAnswer ask(Engine& engine, const std::vector<int32_t>& ids, int64_t tokens = 6) {
  PrefixAnswer a;
  submit(engine, ids, a, tokens);
  run(engine);
  EXPECT_TRUE(a.ended);
  return a;
}

std::vector<int32_t> cold(EngineOptions o, const std::vector<int32_t>& ids, int64_t tokens = 6) {
  o.keep_prefixes = false;
  o.cache_dir.clear();
  Engine engine(small().config(), small().weights(), o);
  return ask(engine, ids, tokens).ids;
}

class PrefixHit : public testing::TestWithParam<std::tuple<Numerics, bool, int>> {
 protected:
  static EngineOptions chosen() {
    EngineOptions o = prefix_options(std::get<2>(GetParam()));
    o.compute.numerics = std::get<0>(GetParam());
    o.compute.batch_invariant = std::get<1>(GetParam());
    return o;
  }
};

TEST_P(PrefixHit, AroundPagesGivesTheAnswerOfAColdRun) {
  Engine engine(small().config(), small().weights(), chosen());
  for (int n : {63, 64, 65, 127, 128, 129}) {
    const std::vector<int32_t> ids = random_ids(n, static_cast<unsigned>(n));
    const std::vector<int32_t> want = cold(chosen(), ids);
    EXPECT_EQ(ask(engine, ids).ids, want) << n;
    const PrefixAnswer hit = ask(engine, ids);
    EXPECT_EQ(hit.ids, want) << n;
    EXPECT_EQ(hit.reused, (n - 1) / 64 * 64) << n;
    // And as the beginning of something longer.
    const std::vector<int32_t> longer = joined(ids, random_ids(70, 1));
    const PrefixAnswer next = ask(engine, longer);
    EXPECT_EQ(next.ids, cold(chosen(), longer)) << n;
    EXPECT_EQ(next.reused, n / 64 * 64) << n;
  }
  const EngineSnapshot s = engine.snapshot();
  EXPECT_EQ(s.free_pages, s.pages);  // kept pages are free
  EXPECT_GT(s.prefix_hits, 0);
  EXPECT_GT(s.prefix_queries, s.prefix_hits);
}

// The second turn repeats the answer of the first: its pages count where decode rounds as prefill.
TEST_P(PrefixHit, AConversationGoesOnWhereItWas) {
  Engine engine(small().config(), small().weights(), chosen());
  std::vector<int32_t> text = random_ids(100, 3);
  for (int turn = 0; turn < 2; ++turn) {
    const PrefixAnswer a = ask(engine, text, 70);
    EXPECT_EQ(a.ids, cold(chosen(), text, 70)) << "turn " << turn;
    if (turn == 1) {
      const bool whole =
          chosen().compute.batch_invariant || chosen().compute.numerics == Numerics::fp8;
      EXPECT_EQ(a.reused, whole ? 128 : 64);
    }
    text = joined(joined(text, a.ids), random_ids(30, 4));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Modes, PrefixHit,
    testing::Values(std::tuple(Numerics::bf16, false, 512), std::tuple(Numerics::bf16, true, 512),
                    std::tuple(Numerics::bf16, false, 40), std::tuple(Numerics::fp8, false, 512),
                    std::tuple(Numerics::exact, true, 40)),
    [](const auto& p) {
      return fmt::format("{}{}{}", name_of(std::get<0>(p.param)),
                         std::get<1>(p.param) ? "Invariant" : "", std::get<2>(p.param));
    });

TEST(EnginePrefix, AfterEvictionAndAgain) {
  EngineOptions o = prefix_options();
  o.compute.context = 256;
  o.cache_tokens = 5 * 64;
  Engine engine(small().config(), small().weights(), o);
  const std::vector<int32_t> a = random_ids(180, 1), b = random_ids(240, 2);
  const std::vector<int32_t> want = cold(o, a);
  EXPECT_EQ(ask(engine, a).reused, 0);
  EXPECT_EQ(ask(engine, a).reused, 128);
  ask(engine, b);  // takes four pages, one of them the last that a left
  const PrefixAnswer part = ask(engine, a);
  EXPECT_EQ(part.ids, want);
  EXPECT_EQ(part.reused, 64);
  const PrefixAnswer again = ask(engine, a);
  EXPECT_EQ(again.ids, want);
  EXPECT_EQ(again.reused, 128);
}

// The whole cache is kept pages, and what waits needs all of it.
TEST(EnginePrefix, KeptPagesNeverStandInTheWay) {
  EngineOptions o = prefix_options(64);
  o.compute.context = 256;
  o.cache_tokens = 256;
  o.compute.sequences = 4;
  Engine engine(small().config(), small().weights(), o);
  const std::vector<int32_t> start = random_ids(128, 1);
  std::vector<std::vector<int32_t>> prompts;
  for (unsigned i = 0; i < 6; ++i)
    prompts.push_back(joined(start, random_ids(60 + 10 * static_cast<int>(i), i)));
  std::vector<std::vector<int32_t>> want;
  for (const auto& p : prompts) want.push_back(cold(o, p, 10));
  std::vector<PrefixAnswer> answers(12);
  for (size_t i = 0; i < answers.size(); ++i)
    submit(engine, prompts[i % prompts.size()], answers[i], 10);
  run(engine);
  for (size_t i = 0; i < answers.size(); ++i) {
    EXPECT_TRUE(answers[i].ended);
    EXPECT_EQ(answers[i].ids, want[i % prompts.size()]) << i;
  }
}

TEST(EnginePrefix, WhatIsComputedOfAPromptUnderWayIsFound) {
  EngineOptions o = prefix_options(64);
  Engine engine(small().config(), small().weights(), o);
  const std::vector<int32_t> first = random_ids(640, 1);
  std::vector<int32_t> second(first.begin(), first.begin() + 500);
  second = joined(second, random_ids(20, 2));
  PrefixAnswer a, b;
  submit(engine, first, a);
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(engine.step());
  submit(engine, second, b);
  run(engine);
  EXPECT_TRUE(a.ids.size() == 6 && b.ids.size() == 6);
  EXPECT_GE(b.reused, 256);
  EXPECT_EQ(a.ids, cold(o, first));
  EXPECT_EQ(b.ids, cold(o, second));
}

// Side by side, each computing its own: they end on one set of pages.
TEST(EnginePrefix, TwinsShareTheirPages) {
  EngineOptions o = prefix_options();
  Engine engine(small().config(), small().weights(), o);
  const std::vector<int32_t> ids = random_ids(200, 1);
  PrefixAnswer a, b;
  submit(engine, ids, a, 40);
  submit(engine, ids, b, 40);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(engine.step());
  EXPECT_EQ(engine.stats().pages - engine.stats().free_pages, 3 + 2);
  run(engine);
  EXPECT_EQ(a.ids, cold(o, ids, 40));
  EXPECT_EQ(b.ids, a.ids);
}

std::map<std::string, std::string> files_in(const std::string& dir) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(dir))
    files[entry.path().filename()] = test::read_file(entry.path());
  return files;
}

// Latent and index rows, as bytes: computed at once, and computed in small chunks behind a prefix
// that was found, beside another request.
TEST(EnginePrefix, RowsAreEqualBitForBit) {
  for (bool invariant : {false, true}) {
    test::TempFolder one, two;
    const std::vector<int32_t> ids = random_ids(900, 1);
    EngineOptions o = prefix_options(1024);
    o.compute.batch_invariant = invariant;
    {
      Engine engine(small().config(), small().weights(), with_disk(o, one.path()));
      ask(engine, ids, 1);
    }
    o.compute.step_tokens = 50;
    {
      Engine engine(small().config(), small().weights(), with_disk(o, two.path()));
      ask(engine, {ids.begin(), ids.begin() + 200}, 1);
      PrefixAnswer a, b;
      submit(engine, random_ids(40, 2), b, 30);  // less than a page: leaves nothing
      submit(engine, ids, a, 1);
      run(engine);
      EXPECT_EQ(a.reused, 192);
    }
    const auto want = files_in(one.path());
    EXPECT_EQ(want.size(), 14u);
    auto got = files_in(two.path());
    if (invariant)  // the other request's answer filled a page, too
      std::erase_if(got, [&](const auto& file) { return !want.contains(file.first); });
    EXPECT_TRUE(got == want) << got.size() << " files";
  }
}

TEST(EnginePrefix, SurvivesARestart) {
  test::TempFolder folder;
  EngineOptions o = with_disk(prefix_options(), folder.path());
  o.compute.context = 4096;
  const std::vector<int32_t> ids = random_ids(3000, 1);
  std::vector<int32_t> want;
  {
    Engine engine(small().config(), small().weights(), o);
    const PrefixAnswer a = ask(engine, ids);
    EXPECT_EQ(a.reused, 0);
    want = a.ids;
  }
  EXPECT_EQ(files_in(folder.path()).size(), 46u);
  {
    Engine engine(small().config(), small().weights(), o);
    const PrefixAnswer a = ask(engine, ids);
    EXPECT_EQ(a.reused, 46 * 64);
    EXPECT_EQ(a.ids, want);
    EXPECT_EQ(engine.stats().prompt_tokens, 3000 - 46 * 64);
    EXPECT_EQ(engine.snapshot().prefix_hits, 46 * 64);
    EXPECT_EQ(ask(engine, ids).reused, 46 * 64);  // from memory now
  }
  // Other rows are other pages, in the same folder.
  for (auto change : {+[](EngineOptions& e) { e.compute.numerics = Numerics::fp8; },
                      +[](EngineOptions& e) { e.compute.cache_format = KvFormat::f32; },
                      +[](EngineOptions& e) { e.compute.attention = AttentionMode::dense; },
                      +[](EngineOptions& e) { e.compute.kernels = "reference"; },
                      +[](EngineOptions& e) { e.compute.batch_invariant = true; },
                      +[](EngineOptions& e) { e.checkpoint.b ^= 1; }}) {
    EngineOptions other = o;
    change(other);
    Engine engine(small().config(), small().weights(), other);
    EXPECT_EQ(ask(engine, {ids.begin(), ids.begin() + 65}, 1).reused, 0);
  }
  Engine engine(small().config(), small().weights(), o);
  EXPECT_EQ(ask(engine, ids).reused, 46 * 64);
}

// Whatever is wrong with a file: the answer is right, the file is replaced.
TEST(EnginePrefix, DamagedFilesAreComputedAgain) {
  test::TempFolder folder;
  const EngineOptions o = with_disk(prefix_options(), folder.path());
  const std::vector<int32_t> ids = random_ids(400, 1);
  const std::vector<int32_t> want = cold(o, ids);
  {
    Engine engine(small().config(), small().weights(), o);
    ask(engine, ids);
  }
  const auto good = files_in(folder.path());
  ASSERT_EQ(good.size(), 6u);
  std::mt19937 random(3);
  for (int round = 0; round < 12; ++round) {
    auto victim = good.begin();
    std::advance(victim, random() % good.size());
    std::string bytes = victim->second;
    if (round % 4 == 3)
      bytes.resize(random() % bytes.size());
    else  // the front, the front's tokens, the rows
      bytes[std::array<size_t, 3>{random() % 64, 64 + random() % 256,
                                  384 + random() % (bytes.size() - 384)}[round % 4]] ^= 16;
    test::write_file(folder.file(victim->first), bytes);
    {
      Engine engine(small().config(), small().weights(), o);
      const PrefixAnswer a = ask(engine, ids);
      EXPECT_EQ(a.ids, want);
      EXPECT_LT(a.reused, 6 * 64);
    }
    EXPECT_TRUE(files_in(folder.path()) == good) << round;
  }
}

TEST(EnginePrefix, AFullFolderAndFewPages) {
  test::TempFolder folder;
  EngineOptions o = with_disk(prefix_options(64), folder.path());
  o.compute.context = 512;
  o.cache_tokens = 512;  // eight pages in memory,
  o.compute.sequences = 3;
  const int64_t file = 384 + kv_shape(small().config(), o.compute).bytes_per_page();
  o.cache_dir_bytes = 12 * file;  // and not many more on disk
  std::vector<std::vector<int32_t>> prompts;
  for (unsigned i = 0; i < 4; ++i)
    prompts.push_back(joined(random_ids(128, i % 2), random_ids(200, 10 + i)));
  std::vector<std::vector<int32_t>> want;
  for (const auto& p : prompts) want.push_back(cold(o, p));
  for (int round = 0; round < 3; ++round) {
    Engine engine(small().config(), small().weights(), o);
    std::vector<PrefixAnswer> answers(8);
    for (size_t i = 0; i < answers.size(); ++i) submit(engine, prompts[i % 4], answers[i]);
    run(engine);
    for (size_t i = 0; i < answers.size(); ++i)
      EXPECT_EQ(answers[i].ids, want[i % 4]) << round << " " << i;
    int64_t bytes = 0;
    for (const auto& entry : fs::directory_iterator(folder.path()))
      bytes += static_cast<int64_t>(entry.file_size());
    EXPECT_LE(bytes, o.cache_dir_bytes);
  }
}

// Far fewer buffers than a prompt has pages, and the request is over before most are stored.
TEST(EnginePrefix, EveryPageIsStoredHoweverFewBuffersThereAre) {
  test::TempFolder folder;
  EngineOptions o = with_disk(prefix_options(1024), folder.path());
  o.cache_dir_staging = 1;  // two pages
  const std::vector<int32_t> ids = random_ids(900, 1);
  {
    Engine engine(small().config(), small().weights(), o);
    ask(engine, ids, 1);
    EXPECT_EQ(engine.cache_dir_stats().skipped, 0);
  }
  EXPECT_EQ(files_in(folder.path()).size(), 14u);
  Engine engine(small().config(), small().weights(), o);
  EXPECT_EQ(ask(engine, ids, 1).reused, 14 * 64);
}

// The reader gets stuck in the middle of a text: requests go on without it.
TEST(EnginePrefix, AHungDiskHoldsNobodyBack) {
  test::TempFolder folder;
  EngineOptions o = with_disk(prefix_options(), folder.path());
  o.cache_dir_patience = std::chrono::milliseconds(20);
  const std::vector<int32_t> ids = random_ids(400, 1), other = random_ids(300, 2);
  {
    Engine engine(small().config(), small().weights(), o);
    ask(engine, ids);
    ask(engine, other);
  }
  std::vector<PageKey> keys;
  extend_keys(keys, cache_origin(small().config(), o), ids);
  const std::string third = folder.file(page_file_name(keys[2]));
  std::string bytes = test::read_file(third);
  bytes.at(500) ^= 1;
  test::write_file(third, bytes);
  std::promise<void> goes_on;
  std::shared_future<void> released = goes_on.get_future().share();
  o.on_cache_problem = [&](const std::string&) { released.wait(); };
  {
    Engine engine(small().config(), small().weights(), o);
    std::vector<PrefixAnswer> answers(2);
    submit(engine, ids, answers[0]);
    submit(engine, other, answers[1]);
    for (int i = 0; i < 2000 && !(answers[0].ended && answers[1].ended); ++i) engine.step();
    for (const PrefixAnswer& a : answers) EXPECT_TRUE(a.ended);
    goes_on.set_value();
    run(engine);
    EXPECT_EQ(answers[0].ids, cold(o, ids));
    EXPECT_EQ(answers[1].ids, cold(o, other));
  }
}

TEST(EnginePrefix, CancelWhileTheDiskIsRead) {
  test::TempFolder folder;
  const EngineOptions o = with_disk(prefix_options(), folder.path());
  const std::vector<int32_t> ids = random_ids(900, 1);
  {
    Engine engine(small().config(), small().weights(), o);
    ask(engine, ids);
  }
  Engine engine(small().config(), small().weights(), o);
  std::vector<PrefixAnswer> answers(4);
  for (PrefixAnswer& a : answers) submit(engine, ids, a);
  ASSERT_TRUE(engine.step());
  for (RequestId id = 1; id <= 3; ++id) engine.cancel(id);
  run(engine);
  for (const PrefixAnswer& a : answers) EXPECT_TRUE(a.ended);
  EXPECT_EQ(answers[3].ids, cold(o, ids));
}

TEST(EnginePrefix, RefusesAFolderItCannotUse) {
  test::TempFolder folder;
  auto message = [](const EngineOptions& o) {
    try {
      Engine engine(small().config(), small().weights(), o);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("it works");
  };
  EngineOptions o = with_disk(prefix_options(), folder.path());
  o.cache_dir_bytes = 1000;
  EXPECT_THAT(message(o), HasSubstr("one page of 64 tokens takes"));
  o = with_disk(prefix_options(), folder.file("none"));
  o.keep_prefixes = false;
  EXPECT_THAT(message(o), HasSubstr("needs kept prefixes"));
  o = prefix_options();
  o.cache_dir = folder.path();
  EXPECT_THAT(message(o), HasSubstr("the checkpoint's digest"));
}

TEST(CacheOrigin, TellsCheckpointsApartByWhatIsInThem) {
  EXPECT_EQ(checkpoint_digest(kModel), checkpoint_digest(kModel + "/"));
  test::TempFolder copy;
  for (const auto& entry : fs::directory_iterator(kModel))
    if (entry.is_regular_file()) fs::copy(entry.path(), copy.path());
  EXPECT_EQ(checkpoint_digest(copy.path()), checkpoint_digest(kModel));
  const std::string config = copy.file("config.json");
  const std::string before = test::read_file(config);
  test::write_file(config, before + " ");
  EXPECT_NE(checkpoint_digest(copy.path()), checkpoint_digest(kModel));
  test::write_file(config, before);
  for (const auto& entry : fs::directory_iterator(copy.path()))
    if (entry.path().extension() == ".safetensors") {
      std::string bytes = test::read_file(entry.path());
      uint64_t header = 0;
      std::memcpy(&header, bytes.data(), 8);
      header += 8;
      bytes[header] = static_cast<char>(bytes[header] ^ 1);  // the first tensor's first byte
      test::write_file(entry.path(), bytes);
    }
  EXPECT_NE(checkpoint_digest(copy.path()), checkpoint_digest(kModel));
}

}  // namespace
}  // namespace fathom
