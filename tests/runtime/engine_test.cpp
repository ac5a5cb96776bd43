// The engine on the bundled model: what a request gets must not depend on anything but itself.
#include "runtime/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "base/error.h"
#include "cache/page_file.h"
#include "io/safetensors.h"
#include "model/checkpoint.h"
#include "runtime/cache_origin.h"
#include "runtime/memory_plan.h"
#include "runtime/small_model.h"
#include "support/temp_folder.h"

namespace fathom {
namespace {

using test::random_ids;
using test::small;
using testing::HasSubstr;

const std::string kSource = FATHOM_SOURCE_DIR;

EngineOptions options(int chunk = 512) {
  EngineOptions o;
  o.compute.threads =
      1;  // threads are for one test; the others share the machine with their siblings
  o.compute.context = 2048;
  o.compute.step_tokens = chunk;
  return o;
}

struct Answer {
  std::vector<int32_t> ids;
  Finish finish = Finish::none;
  std::string error;
  RequestStats stats;
};

Request request(std::vector<int32_t> ids, int64_t max_new_tokens, float temperature = 1.0f) {
  Request r;
  r.ids = std::move(ids);
  r.max_new_tokens = max_new_tokens;
  r.sampling.temperature = temperature;
  r.sampling.seed = 5;
  return r;
}

void collect_into(Request& r, Answer& a) {
  r.sink = [&a](const TokenEvent& e) {
    EXPECT_EQ(a.finish, Finish::none) << "an event after the last one";
    if (e.token >= 0) a.ids.push_back(e.token);
    a.finish = e.finish;
    a.error = e.error;
    a.stats = *e.stats;
  };
}

std::vector<Answer> run_all(Engine& engine, std::vector<Request> requests) {
  std::vector<Answer> answers(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    collect_into(requests[i], answers[i]);
    Result<RequestId> id = engine.submit(std::move(requests[i]));
    EXPECT_TRUE(id.ok()) << (id.ok() ? "" : id.failure().message);
  }
  while (engine.step()) engine.check_integrity();
  for (const Answer& a : answers) EXPECT_NE(a.finish, Finish::none);
  return answers;
}

// Lengths around a page, top-k (256), and, where there is one (bf16 stands for it), the change of
// attention form at 870.
std::vector<Request> mixed_requests(bool two_forms) {
  std::vector<Request> r;
  for (int n : {1, 63, 64, 65, 257, 880})
    if (n < 870 || two_forms) r.push_back(request(random_ids(n, static_cast<unsigned>(n)), 6));
  return r;
}

std::vector<std::vector<int32_t>> ids_of(const std::vector<Answer>& answers) {
  std::vector<std::vector<int32_t>> ids;
  for (const Answer& a : answers) ids.push_back(a.ids);
  return ids;
}

TEST(Engine, GreedyReproducesTheGoldenContinuations) {
  std::ifstream file(kSource + "/tests/data/golden/prompts.json");
  ASSERT_TRUE(file) << "golden prompts are missing";
  EngineOptions o = options();
  o.compute.numerics = Numerics::exact;
  o.compute.context = 4096;
  Engine engine(small().config(), small().weights(), o);
  std::vector<Request> requests;
  std::vector<std::vector<int32_t>> want;
  for (const auto& prompt : nlohmann::json::parse(file)) {
    if (prompt["greedy"] == 0) continue;
    SafetensorsFile golden = SafetensorsFile::open(
        kSource + "/tests/data/golden/small-" + prompt["name"].get<std::string>() + ".safetensors");
    const StoredTensor& greedy = golden.at("exact.greedy");
    const auto* ids = reinterpret_cast<const int32_t*>(greedy.data);
    want.emplace_back(ids, ids + greedy.shape[0]);
    requests.push_back(request(prompt["ids"], static_cast<int64_t>(prompt["greedy"]), 0));
    requests.back().stop_ids = {small().config().eos};
  }
  ASSERT_GE(want.size(), 3u);
  EXPECT_EQ(ids_of(run_all(engine, std::move(requests))), want);
}

class EngineInvariance : public testing::TestWithParam<Numerics> {};

TEST_P(EngineInvariance, AloneInABatchAndInAnyChunks) {
  EngineOptions o = options();
  o.compute.numerics = GetParam();
  const bool two_forms = o.compute.numerics == Numerics::bf16;
  std::vector<std::vector<int32_t>> alone;
  {
    Engine engine(small().config(), small().weights(), o);
    for (Request& r : mixed_requests(two_forms)) {
      std::vector<Request> one;
      one.push_back(std::move(r));
      alone.push_back(run_all(engine, std::move(one))[0].ids);
      EXPECT_EQ(alone.back().size(), 6u);
    }
  }
  for (int chunk : {7, 64, 1000}) {
    o.compute.step_tokens = chunk;
    o.compute.sequences = chunk == 7 ? 3 : 8;
    Engine engine(small().config(), small().weights(), o);
    EXPECT_EQ(ids_of(run_all(engine, mixed_requests(two_forms))), alone) << "chunk " << chunk;
  }
  // One token a step, as far as a test's time goes; and two threads this once.
  o.compute.step_tokens = 1;
  o.compute.threads = 2;
  Engine engine(small().config(), small().weights(), o);
  std::vector<Request> few = mixed_requests(false);
  few.resize(2);
  alone.resize(2);
  EXPECT_EQ(ids_of(run_all(engine, std::move(few))), alone) << "chunk 1";
}

INSTANTIATE_TEST_SUITE_P(Numerics, EngineInvariance,
                         testing::Values(Numerics::exact, Numerics::bf16, Numerics::fp8),
                         [](const auto& p) { return std::string(name_of(p.param)); });

TEST(Engine, PreemptionDoesNotChangeATokenAndIsCounted) {
  auto requests = [] {
    std::vector<Request> r;
    for (unsigned i = 0; i < 4; ++i)
      r.push_back(request(random_ids(50 + 4 * static_cast<int>(i), i), 20));
    return r;
  };
  EngineOptions o = options();
  o.compute.context = 128;
  Engine roomy(small().config(), small().weights(), o);
  std::vector<Answer> want = run_all(roomy, requests());
  EXPECT_EQ(roomy.stats().preemptions, 0);
  for (bool keep : {false, true}) {
    o.cache_tokens = 256;  // four pages, and each of four requests grows into its second
    o.keep_prefixes = keep;
    Engine tight(small().config(), small().weights(), o);
    std::vector<Answer> got = run_all(tight, requests());
    EXPECT_EQ(ids_of(got), ids_of(want)) << keep;
    EXPECT_GT(tight.stats().preemptions, 0);
    EXPECT_EQ(got[0].stats.preemptions, 0) << "the oldest is never put out";
  }
}

TEST(Engine, CancelFreesPagesAndTellsTheSink) {
  EngineOptions o = options();
  o.compute.sequences = 2;
  Engine engine(small().config(), small().weights(), o);
  std::vector<Answer> answers(4);
  std::vector<RequestId> ids;
  for (size_t i = 0; i < answers.size(); ++i) {
    Request r = request(random_ids(70, static_cast<unsigned>(i)), 500);
    collect_into(r, answers[i]);
    ids.push_back(engine.submit(std::move(r)).value());
  }
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(engine.step());
  EXPECT_EQ(engine.stats().running, 2);
  EXPECT_EQ(engine.stats().waiting, 2);
  engine.cancel(ids[0]);
  engine.cancel(ids[3]);  // still waiting
  engine.cancel(9999);    // nobody
  ASSERT_TRUE(engine.step());
  engine.check_integrity();
  EXPECT_EQ(answers[0].finish, Finish::cancelled);
  EXPECT_EQ(answers[3].finish, Finish::cancelled);
  EXPECT_GT(answers[0].ids.size(), 0u);
  EXPECT_EQ(answers[3].ids.size(), 0u);
  engine.cancel(ids[0]);  // twice
  engine.cancel(ids[1]);
  engine.cancel(ids[2]);
  while (engine.step()) {
  }
  EXPECT_EQ(answers[1].finish, Finish::cancelled);
  EXPECT_EQ(engine.stats().free_pages, engine.stats().pages);
  engine.check_integrity();
}

TEST(Engine, ASinkMayCancelAndSubmit) {
  Engine engine(small().config(), small().weights(), options());
  Answer second;
  int heard = 0;
  Finish last = Finish::none;
  Request r = request(random_ids(10, 1), 100);
  r.sink = [&](const TokenEvent& e) {
    last = e.finish;
    if (e.token < 0 || ++heard != 3) return;
    engine.cancel(e.id);
    Request next = request(random_ids(20, 2), 5);
    collect_into(next, second);
    EXPECT_TRUE(engine.submit(std::move(next)).ok());
  };
  ASSERT_TRUE(engine.submit(std::move(r)).ok());
  while (engine.step()) engine.check_integrity();
  EXPECT_EQ(last, Finish::cancelled);
  EXPECT_EQ(heard, 3);
  EXPECT_EQ(second.ids.size(), 5u);
}

TEST(Engine, EndsAtStopIdsAtTheLimitAndAtTheContextsEnd) {
  EngineOptions o = options();
  o.compute.context = 100;
  Engine engine(small().config(), small().weights(), o);
  std::vector<Request> r;
  r.push_back(request(random_ids(90, 3), 500, 0));
  r.push_back(request(random_ids(99, 3), 500, 0));
  r.push_back(request(random_ids(20, 3), 6, 0));
  std::vector<Answer> a = run_all(engine, std::move(r));
  EXPECT_EQ(a[0].ids.size(), 10u);
  EXPECT_EQ(a[1].ids.size(), 1u);
  EXPECT_EQ(a[2].ids.size(), 6u);
  for (const Answer& each : a) EXPECT_EQ(each.finish, Finish::length);

  r.clear();
  r.push_back(request(random_ids(20, 3), 6, 0));
  r[0].stop_ids = {a[2].ids[3], 12345};
  size_t first = static_cast<size_t>(std::find(a[2].ids.begin(), a[2].ids.end(), a[2].ids[3]) -
                                     a[2].ids.begin());
  std::vector<Answer> b = run_all(engine, std::move(r));
  EXPECT_EQ(b[0].finish, Finish::stop);
  EXPECT_EQ(b[0].ids.size(), first + 1) << "the stop token is the last one";
  EXPECT_EQ(b[0].stats.generated_tokens, static_cast<int64_t>(first + 1));
  EXPECT_EQ(b[0].stats.prompt_tokens, 20);
}

TEST(Engine, RefusesWhatItCannotRunAndGoesOn) {
  EngineOptions o = options();
  o.compute.context = 100;
  Engine engine(small().config(), small().weights(), o);
  auto refusal = [&](Request r) {
    r.sink = [](const TokenEvent&) { ADD_FAILURE() << "a refused request was run"; };
    Result<RequestId> id = engine.submit(std::move(r));
    EXPECT_FALSE(id.ok());
    return id.ok() ? std::string() : id.failure().message;
  };
  EXPECT_THAT(refusal(request({}, 5)), HasSubstr("prompt is empty"));
  EXPECT_THAT(refusal(request(random_ids(100, 1), 5)), HasSubstr("100 tokens"));
  EXPECT_THAT(refusal(request({1, 4096, 2}, 5)), HasSubstr("token 1 of the prompt is id 4096"));
  EXPECT_THAT(refusal(request({1, -1}, 5)), HasSubstr("id -1"));
  EXPECT_THAT(refusal(request({1}, 0)), HasSubstr("max_new_tokens is 0"));
  EXPECT_THAT(refusal(request({1}, 5, -2)), HasSubstr("temperature is -2"));
  EXPECT_FALSE(engine.step());
  std::vector<Request> one;
  one.push_back(request({1}, 3));
  EXPECT_EQ(run_all(engine, std::move(one))[0].ids.size(), 3u);
}

TEST(Engine, ReusesPrefixesWithoutChangingTheAnswer) {
  std::vector<int32_t> turn = random_ids(130, 9);
  std::vector<int32_t> next = turn;
  for (int32_t id : random_ids(20, 10)) next.push_back(id);
  auto answer = [](Engine& e, const std::vector<int32_t>& ids) {
    std::vector<Request> one;
    one.push_back(request(ids, 8));
    return run_all(e, std::move(one))[0];
  };
  for (bool invariant : {false, true}) {
    EngineOptions o = options();
    o.compute.batch_invariant = invariant;
    Engine fresh(small().config(), small().weights(), o);
    o.keep_prefixes = true;
    Engine keeping(small().config(), small().weights(), o);
    EXPECT_EQ(answer(keeping, turn).stats.reused_tokens, 0);
    Answer reused = answer(keeping, next);
    EXPECT_EQ(reused.stats.reused_tokens, 128);  // two whole pages
    EXPECT_EQ(reused.ids, answer(fresh, next).ids);
    Answer again = answer(keeping, next);
    EXPECT_EQ(again.stats.reused_tokens, 128);
    EXPECT_EQ(again.ids, reused.ids);
  }
}

TEST(Engine, BrokenWeightsFailRequestsNotTheProcess) {
  Weights broken = small().weights();
  std::vector<float> nan(static_cast<size_t>(small().config().hidden), NAN);
  broken.norm = nan.data();
  test::TempFolder folder;
  EngineOptions o = options();
  o.keep_prefixes = true;
  for (int chunk : {512, 64}) {  // with the shorter ones most pages are kept before it shows
    for (bool disk : {false, true}) {
      o.compute.step_tokens = chunk;
      o.cache_dir = disk ? folder.path() : "";
      if (disk) o.checkpoint = checkpoint_digest(kSource + "/models/small");
      for (int start = 0; start < 2; ++start) {
        Engine engine(small().config(), broken, o);
        for (float temperature : {0.0f, 1.0f}) {
          std::vector<Request> r;
          r.push_back(request(random_ids(200, 1), 5, temperature));
          Answer a = run_all(engine, std::move(r))[0];
          EXPECT_EQ(a.finish, Finish::error);
          EXPECT_THAT(a.error, HasSubstr("the model's output is broken"));
          EXPECT_EQ(a.stats.reused_tokens, 0) << "the cache of a broken run was kept";
        }
        EXPECT_EQ(engine.stats().free_pages, engine.stats().pages);
        EXPECT_EQ(engine.cache_dir_stats().files, 0);
      }
    }
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

// Pages that come from a folder are not believed either: one broken answer, and they are computed
// anew.
TEST(Engine, BrokenPagesOnDiskAreRemoved) {
  test::TempFolder folder;
  EngineOptions o = options(64);
  o.keep_prefixes = true;
  o.cache_dir = folder.path();
  o.checkpoint = checkpoint_digest(kSource + "/models/small");
  auto ask = [&](Engine& engine) {
    std::vector<Request> r;
    r.push_back(request(random_ids(200, 1), 5));
    return run_all(engine, std::move(r))[0];
  };
  std::vector<int32_t> want;
  {
    Engine engine(small().config(), small().weights(), o);
    want = ask(engine).ids;
  }
  // Rows that are no numbers, sealed as if they were.
  const int64_t bytes = kv_shape(small().config(), o.compute).bytes_per_page();
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    std::string file = test::read_file(entry.path());
    ASSERT_EQ(file.size(), page_file_bytes(static_cast<size_t>(bytes)));
    PageFileFront front;
    std::memcpy(&front, file.data(), sizeof front);
    std::fill(file.begin() + sizeof front, file.end(), '\xff');
    seal_page_file(std::as_writable_bytes(std::span(file)), front.id);
    test::write_file(entry.path(), file);
  }
  {
    Engine engine(small().config(), small().weights(), o);
    const Answer broken = ask(engine);
    EXPECT_EQ(broken.finish, Finish::error);
    EXPECT_EQ(broken.stats.reused_tokens, 192);
    const Answer again = ask(engine);
    EXPECT_EQ(again.stats.reused_tokens, 0);
    EXPECT_EQ(again.ids, want);
  }
  Engine engine(small().config(), small().weights(), o);
  const Answer last = ask(engine);
  EXPECT_EQ(last.stats.reused_tokens, 192);
  EXPECT_EQ(last.ids, want);
}

TEST(Engine, RunsOnAThreadOfItsOwn) {
  EngineOptions o = options();
  o.compute.threads = 1;
  Engine engine(small().config(), small().weights(), o);
  std::jthread thread([&](std::stop_token stop) { engine.run(stop); });
  std::atomic<int> done = 0;
  std::atomic<int> tokens = 0;
  for (unsigned i = 0; i < 6; ++i) {
    Request r = request(random_ids(10, i), 5);
    r.sink = [&](const TokenEvent& e) {
      tokens += e.token >= 0;
      done += e.finish != Finish::none;
    };
    ASSERT_TRUE(engine.submit(std::move(r)).ok());
  }
  while (done < 6) std::this_thread::yield();
  thread.request_stop();
  thread.join();
  EXPECT_EQ(tokens, 30);
}

TEST(Engine, DescribesWhatWasChosen) {
  EngineOptions o = options();
  o.compute.numerics = Numerics::fp8;
  o.compute.kernels = "reference";
  Engine engine(small().config(), small().weights(), o);
  for (const char* part : {"1 thread", "fp8 numerics", "fp8 cache", "sparse", "2048 tokens"})
    EXPECT_THAT(engine.describe(), HasSubstr(part));
}

MemoryNeeds needs() {
  MemoryNeeds n;
  n.weights = 1 << 30;
  n.workspace = 1 << 20;
  n.cache = {10, 512, 64, 128, KvFormat::f32, KvFormat::f32, true};
  n.max_positions = 8192;
  n.sequences = 4;
  return n;
}

TEST(MemoryPlan, GivesEverySequenceItsContextWhereThatFits) {
  MemoryPlan p = plan_memory(needs(), int64_t{8} << 30);
  EXPECT_EQ(p.context, 8192);
  EXPECT_EQ(p.pages, 4 * 8192 / kPageRows);
  MemoryNeeds n = needs();
  n.context = 100;
  EXPECT_EQ(plan_memory(n, int64_t{8} << 30).pages, 4 * 2);
  n.cache_tokens = 10;  // one sequence alone must fit
  EXPECT_EQ(plan_memory(n, int64_t{8} << 30).pages, 2);
}

TEST(MemoryPlan, TakesItsShareAndSaysWhatFits) {
  MemoryNeeds n = needs();
  const int64_t page = n.cache.bytes_per_page();
  const int64_t available = ((int64_t{1} << 30) + (1 << 20) + 400 * page) * 10 / 9 + 1000;
  MemoryPlan p = plan_memory(n, available);
  EXPECT_EQ(p.pages, 400);
  EXPECT_EQ(p.describe_load(),
            "25600 tokens of cache: 4 requests at once of 6400 tokens each, or 3 of the longest, "
            "8192 tokens");
  n.cache_share = 0.5;
  EXPECT_EQ(plan_memory(n, available).pages, 200);
  n.cache_share = 0.25;
  EXPECT_EQ(plan_memory(n, available).pages, 128);  // one of the longest, whatever the share
  n.context = 1000;
  p = plan_memory(n, available);
  EXPECT_EQ(p.pages, 4 * 16);
  EXPECT_EQ(p.describe_load(),
            "4096 tokens of cache: 4 requests at once of up to 1000 tokens each");
  n.fill = true;
  EXPECT_EQ(plan_memory(n, available).pages, 100);
  n.cache_tokens = 20 * kPageRows;
  EXPECT_EQ(plan_memory(n, available).pages, 20);
}

TEST(MemoryPlan, ShrinksOnlyWhatNobodyAskedFor) {
  const int64_t page = needs().cache.bytes_per_page();
  const int64_t available = ((int64_t{1} << 30) + (1 << 20) + 20 * page) * 10 / 9 + 1000;
  MemoryPlan p = plan_memory(needs(), available);
  EXPECT_EQ(p.context, 20 * kPageRows);
  EXPECT_EQ(p.pages, 20);
  MemoryNeeds n = needs();
  n.context = 20 * kPageRows + 1;
  auto message = [](const MemoryNeeds& what, int64_t bytes) {
    try {
      (void)plan_memory(what, bytes);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("it fits");
  };
  EXPECT_THAT(message(n, available),
              testing::AllOf(HasSubstr("not enough memory: weights 1.0 GiB"),
                             HasSubstr("1281 tokens in f32"), HasSubstr("1280 tokens would fit")));
  EXPECT_THAT(message(needs(), 1 << 20), HasSubstr("not even one page"));
  n.context = 8193;
  EXPECT_THAT(message(n, available), HasSubstr("the model's own is 8192"));
  n = needs();
  n.cache_tokens = 1 << 20;
  EXPECT_THAT(message(n, available), HasSubstr("1048576 tokens"));
}

}  // namespace
}  // namespace fathom
