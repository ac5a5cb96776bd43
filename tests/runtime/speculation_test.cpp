// Speculation on real models: whatever is asked at once, each request gets the same tokens, the
// same log-probabilities and selections, and the same end, with drafts and without.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
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

const std::string kData = FATHOM_SOURCE_DIR "/tests/data/";

const Checkpoint& checkpoint(bool tiny) {
  static const auto small_model = Checkpoint::load(FATHOM_SOURCE_DIR "/models/small", {});
  static const auto tiny_model = Checkpoint::load(kData + "tiny", {});
  return tiny ? *tiny_model : *small_model;
}

std::vector<int32_t> golden_prompt(const std::string& name) {
  std::ifstream file(kData + "golden/prompts.json");
  for (const auto& prompt : nlohmann::json::parse(file))
    if (prompt["name"] == name) return prompt["ids"];
  ADD_FAILURE() << "no golden prompt " << name;
  return {};
}

// Allows one half of the vocabulary or the other, as the token before says. Knows which drafts are
// possible, and counts the impossible ones that were proposed.
class Halves final : public TokenConstraint {
 public:
  explicit Halves(int vocab) : vocab_(vocab) {}
  std::span<const uint64_t> allowed() override {
    mask_.assign(static_cast<size_t>(vocab_ + 63) / 64, 0);
    for (int32_t id = 0; id < vocab_; ++id)
      if (fits(last_, id)) mask_[static_cast<size_t>(id) / 64] |= uint64_t{1} << (id % 64);
    return mask_;
  }
  void accept(int32_t token) override {
    EXPECT_TRUE(fits(last_, token));
    last_ = token;
  }
  size_t possible(std::span<const int32_t> drafts) override {
    size_t n = 0;
    for (int32_t last = last_; n < drafts.size() && fits(last, drafts[n]); ++n) last = drafts[n];
    return n;
  }

 private:
  static bool fits(int32_t last, int32_t id) { return (last + id) % 3 != 0; }
  const int vocab_;
  int32_t last_ = 1;
  std::vector<uint64_t> mask_;
};

// All that a client can see of an answer.
struct Seen {
  std::vector<int32_t> ids;
  std::vector<TokenLogprobs> logprobs;
  std::vector<std::vector<int32_t>> picks;
  Finish finish = Finish::none;
  RequestStats stats;

  bool operator==(const Seen& o) const {
    auto same = [](const TokenLogprobs& a, const TokenLogprobs& b) {
      return a.token == b.token && a.logprob == b.logprob && a.top == b.top;
    };
    return ids == o.ids && picks == o.picks && finish == o.finish &&
           stats.generated_tokens == o.stats.generated_tokens &&
           std::equal(logprobs.begin(), logprobs.end(), o.logprobs.begin(), o.logprobs.end(), same);
  }
};

void record(Request& r, Seen& seen) {
  r.sink = [&seen](const TokenEvent& e) {
    EXPECT_EQ(seen.finish, Finish::none) << "an event after the last one";
    EXPECT_TRUE(e.error.empty()) << e.error;
    if (e.token >= 0) seen.ids.push_back(e.token);
    if (e.logprobs) seen.logprobs.push_back(*e.logprobs);
    for (const TokenLogprobs& p : e.prompt_logprobs) seen.logprobs.push_back(p);
    if (e.selection)
      for (const auto& layer : e.selection->layers)
        seen.picks.emplace_back(layer.begin(), layer.end());
    seen.finish = e.finish;
    seen.stats = *e.stats;
  };
}

constexpr size_t kCancelledAt = 6;

// Requests that differ in all that decides a token, several of them in more than one.
std::vector<Request> requests(bool tiny) {
  const int vocab = checkpoint(tiny).config().vocab;
  std::vector<Request> list;
  auto add = [&](std::vector<int32_t> ids, int64_t tokens, float temperature) -> Request& {
    Request& r = list.emplace_back();
    r.ids = std::move(ids);
    r.max_new_tokens = tokens;
    r.sampling.temperature = temperature;
    r.sampling.seed = 11 * list.size();
    return r;
  };
  auto text = [&](const char* name, int n, unsigned seed) {
    return tiny ? random_ids(n, seed, vocab) : golden_prompt(name);
  };
  add(text("hello", 7, 1), 16, 0);
  add(text("story", 9, 2), 16, 0.6f).stop_ids = {tiny ? 5 : 13};
  add(text("story", 63, 3), 14, 0).logprobs = 3;
  Request& ruled = add(text("story", 64, 4), 14, 0);
  ruled.rules.repetition_penalty = 1.3f;
  ruled.rules.frequency_penalty = 0.4f;
  ruled.rules.presence_penalty = 0.2f;
  ruled.rules.bias = {{17, 2.0f}, {40, -3.0f}};
  ruled.rules.min_new_tokens = 8;
  ruled.stop_ids = {17};
  ruled.logprobs = 0;
  Request& formed = add(text("hello", 65, 5), 14, 0.8f);
  formed.constraint = std::make_shared<Halves>(vocab);
  formed.sampling.top_k = 20;
  add(text("hello", 20, 6), 1, 0);
  add(text("story", 20, 7), 2, 0.7f).sampling.top_p = 0.9f;
  Request& watched = add(random_ids(60, 8, vocab), 10, 0);
  watched.keep_selection = true;
  watched.logprobs = 1;
  watched.prompt_logprobs = true;
  watched.prompt_logprobs_from = 40;
  // The same text for several: pages are shared, and n > 1 is this.
  const std::vector<int32_t> shared = random_ids(124, 9, vocab);
  for (int i = 0; i < 3; ++i) add(shared, 10, 1.0f).priority = i;
  // The last one is cancelled when it has so many tokens.
  add(text("story", 40, 10), 60, 0).priority = -1;
  return list;
}

struct Outcome {
  std::vector<Seen> seen;
  EngineStats stats;
};

Outcome run(bool tiny, const EngineOptions& o, const RankWeights& weights) {
  Engine engine(checkpoint(tiny).config(), weights, o);
  std::vector<Request> list = requests(tiny);
  Outcome out;
  out.seen.resize(list.size());
  RequestId last = 0;
  for (size_t i = 0; i < list.size(); ++i) {
    record(list[i], out.seen[i]);
    const Result<RequestId> id = engine.submit(std::move(list[i]));
    EXPECT_TRUE(id.ok()) << id.failure().message;
    last = id.value();
  }
  while (engine.step()) {
    engine.check_integrity();
    if (out.seen.back().ids.size() >= kCancelledAt) engine.cancel(last);
  }
  out.stats = engine.stats();
  return out;
}

Outcome run(bool tiny, const EngineOptions& o) { return run(tiny, o, checkpoint(tiny).weights()); }

EngineOptions options(int speculative_tokens) {
  EngineOptions o;
  o.compute.threads = 1;
  o.compute.context = 192;
  o.compute.sequences = 6;
  o.compute.speculative_tokens = speculative_tokens;
  o.compute.mtp = speculative_tokens > 0;
  o.keep_selection = true;
  o.regulate_drafts = false;
  return o;
}

void expect_same(const Outcome& got, const Outcome& want) {
  for (size_t i = 0; i + 1 < want.seen.size(); ++i) {
    EXPECT_EQ(got.seen[i].ids, want.seen[i].ids) << "request " << i;
    EXPECT_TRUE(got.seen[i] == want.seen[i]) << "request " << i;
  }
  // How many tokens a step brings decides how many the cancelled one got.
  for (const Outcome* o : {&got, &want}) {
    const Seen& cancelled = o->seen.back();
    EXPECT_EQ(cancelled.finish, Finish::cancelled);
    ASSERT_GE(cancelled.ids.size(), kCancelledAt);
    EXPECT_LE(cancelled.ids.size(), kCancelledAt + kMaxSpeculativeTokens);
    EXPECT_TRUE(std::equal(cancelled.ids.begin(), cancelled.ids.begin() + kCancelledAt,
                           want.seen.back().ids.begin()));
  }
}

class Speculation : public testing::TestWithParam<std::pair<bool, Numerics>> {};

// One column after the other of the matrix: the number of drafts, chunks, pages, kept prefixes, the
// disk, one form of attention, threads; each with every kind of request at once.
TEST_P(Speculation, ChangesNothingThatAClientSees) {
  const auto [tiny, numerics] = GetParam();
  test::TempFolder folder;
  struct Case {
    int drafts, chunk;
    int64_t cache_tokens;
    bool keep, disk, one_form;
    int threads;
  };
  std::map<bool, Outcome> plain;  // by the form of attention
  int64_t preemptions = 0, reused = 0;
  for (const Case& c :
       {Case{1, 512, 0, false, false, false, 1}, Case{2, 40, 0, true, false, true, 1},
        Case{3, 512, 320, true, true, true, 2}, Case{4, 96, 320, true, true, false, 1}}) {
    SCOPED_TRACE(testing::Message() << c.drafts << " drafts, steps of " << c.chunk);
    EngineOptions o = options(c.drafts);
    o.compute.numerics = numerics;
    o.compute.batch_invariant = c.one_form;
    if (!plain.contains(c.one_form)) {
      EngineOptions without = o;
      without.compute.speculative_tokens = 0;
      without.compute.mtp = false;
      plain[c.one_form] = run(tiny, without);
      EXPECT_EQ(plain[c.one_form].stats.speculation.draft_tokens, 0);
    }
    o.compute.step_tokens = c.chunk;
    o.compute.threads = c.threads;
    o.cache_tokens = c.cache_tokens;
    o.keep_prefixes = c.keep;
    if (c.disk) {
      o.cache_dir = folder.path();
      o.checkpoint = {3, 4};
    }
    const Outcome got = run(tiny, o);
    expect_same(got, plain[c.one_form]);
    const SpeculationStats& s = got.stats.speculation;
    EXPECT_GT(s.drafts, 20);
    EXPECT_GE(s.draft_tokens, s.drafts);
    EXPECT_LE(s.draft_tokens, c.drafts * s.drafts);
    preemptions += got.stats.preemptions;
    reused += got.stats.reused_tokens;
    if (tiny) continue;  // its weights are random: no draft can be right
    EXPECT_GT(s.accepted_tokens, s.draft_tokens / 8);
    EXPECT_LT(got.stats.generated_tokens, plain[c.one_form].stats.generated_tokens * 3 / 2);
  }
  EXPECT_GT(preemptions, 0);
  EXPECT_GT(reused, 0);
}

INSTANTIATE_TEST_SUITE_P(Models, Speculation,
                         testing::Values(std::pair(false, Numerics::bf16),
                                         std::pair(true, Numerics::fp8)),
                         [](const auto& p) {
                           return std::string(p.param.first ? "tiny_" : "small_") +
                                  std::string(name_of(p.param.second));
                         });

// Every rank runs the block and makes the same drafts.
TEST(SpeculationOnRanks, ChangesNothingThatAClientSees) {
  for (bool tiny : {false, true}) {
    SCOPED_TRACE(tiny ? "tiny" : "small");
    EngineOptions without = options(0);
    without.compute.numerics = tiny ? Numerics::fp8 : Numerics::bf16;
    without.compute.layout.tensor = without.compute.threads = 2;
    CheckpointOptions loading;
    loading.layout = without.compute.layout;
    const auto ranks = Checkpoint::load(
        tiny ? kData + "tiny" : std::string(FATHOM_SOURCE_DIR "/models/small"), loading);
    const Outcome want = run(tiny, without, ranks->rank_weights());
    EngineOptions with = without;
    with.compute.speculative_tokens = 2;
    with.compute.mtp = true;
    with.keep_prefixes = true;
    with.cache_tokens = 320;
    const Outcome got = run(tiny, with, ranks->rank_weights());
    expect_same(got, want);
    EXPECT_GT(got.stats.speculation.draft_tokens, 20);
    if (tiny) continue;  // its weights are random: no draft can be right
    EXPECT_GT(got.stats.speculation.accepted_tokens, got.stats.speculation.draft_tokens / 8);
  }
}

// On the model's own text the block is right more often than not, at once and after a prefix hit: a
// second question about the same text finds the block's rows in the kept pages.
TEST(SpeculationOfTheSmallModel, IsAcceptedAlsoAfterAPrefixHit) {
  EngineOptions o = options(2);
  o.compute.context = 1024;
  o.keep_prefixes = true;
  Engine engine(checkpoint(false).config(), checkpoint(false).weights(), o);
  std::vector<Seen> seen(2);
  for (Seen& s : seen) {
    Request r;
    r.ids = golden_prompt("find-700");
    r.max_new_tokens = 14;
    r.sampling.temperature = 0;
    record(r, s);
    ASSERT_TRUE(engine.submit(std::move(r)).ok());
    while (engine.step()) engine.check_integrity();
  }
  EXPECT_EQ(seen[0].ids, seen[1].ids);
  EXPECT_EQ(seen[0].stats.reused_tokens, 0);
  EXPECT_GE(seen[1].stats.reused_tokens, 832);
  for (const Seen& s : seen) EXPECT_GE(2 * s.stats.accepted_tokens, s.stats.draft_tokens);
}

// Files of an engine without the block have no rows of it, and must not be taken for its own.
TEST(SpeculationOfTheSmallModel, KeepsItsPagesApart) {
  const Config& config = checkpoint(false).config();
  EngineOptions with = options(1), without = options(0);
  with.checkpoint = without.checkpoint = {1, 2};
  EXPECT_FALSE(cache_origin(config, with) == cache_origin(config, without));
  EngineOptions more = options(3);
  more.checkpoint = with.checkpoint;
  EXPECT_TRUE(cache_origin(config, with) == cache_origin(config, more)) << "the rows are the same";
}

TEST(SpeculationOptions, AreChecked) {
  const Checkpoint& c = checkpoint(false);
  Config without = c.config();
  without.mtp_layers = 0;
  auto refused = [&](const Config& config, const EngineOptions& o) -> std::string {
    try {
      Engine engine(config, c.weights(), o);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_EQ(refused(without, options(1)),
            "speculative tokens: 1 asked for, and this checkpoint has no MTP block to draft them");
  EXPECT_EQ(refused(c.config(), options(5)),
            "speculative tokens: 5 asked for, 0 to 4 are possible");
  EngineOptions groups = options(1);
  groups.compute.layout.data = 2;
  EXPECT_EQ(refused(c.config(), groups),
            "speculative tokens: 1 asked for in 2 groups of ranks, and the MTP block runs in one");
}

}  // namespace
}  // namespace fathom
