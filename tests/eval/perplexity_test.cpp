#include "eval/perplexity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "eval/runner.h"
#include "eval/small_tokenizer.h"
#include "model/checkpoint.h"
#include "runtime/evaluator.h"
#include "runtime/logit_rules.h"

namespace fathom::eval {
namespace {

using test::small_tokenizer;
using testing::HasSubstr;

const std::string kModel = std::string(FATHOM_SOURCE_DIR) + "/models/small";

const Checkpoint& small() {
  static const std::unique_ptr<Checkpoint> checkpoint =
      Checkpoint::load(kModel, {.config_file = "", .with_mtp = false});
  return *checkpoint;
}
std::string prose(int sentences) {
  std::string s;
  for (int i = 0; i < sentences; ++i)
    s += fmt::format("On day {} the old man went down to the river, and he saw a boat there. ", i);
  return s;
}

RunResult run_alone(const Task& task, AttentionMode attention = AttentionMode::sparse,
                    int rows = 64, int max_seqs = 2) {
  EngineOptions o;
  o.compute.threads = 1;
  o.compute.context = longest(task);
  o.compute.sequences = max_seqs;
  o.compute.attention = attention;
  o.max_prompt_rows = rows;
  o.keep_prefixes = true;
  Engine engine(small().config(), small().weights(), o);
  ResultsFile none;
  return run_task(&engine, task, {task.key(), task.name(), "x"}, none, {});
}

// Tokens of the text from the model's own logits, one long evaluation.
TEST(Perplexity, IsTheMeanOfTheModelsOwnLogits) {
  const std::string text = prose(12);
  const std::vector<int32_t> ids = small_tokenizer().encode_plain(text);
  const auto n = static_cast<int64_t>(ids.size());
  EvalOptions options;
  options.compute.threads = 1;
  options.compute.context = n;
  Evaluator evaluator(small().config(), small().weights(), options);
  std::vector<int64_t> rows;
  for (int64_t p = 0; p + 1 < n; ++p) rows.push_back(p);
  double nats = 0;
  evaluator.feed(ids, rows, [&](int64_t p, std::span<const float> logits) {
    nats -= static_cast<double>(logprobs_of(logits, ids[static_cast<size_t>(p) + 1], 0).logprob);
  });
  const Perplexity task("p", small_tokenizer(), {{"a.txt", text}}, {.context = n});
  ASSERT_EQ(task.size(), 1u);
  for (int rows_a_step : {5, 512}) {
    const RunResult r = run_alone(task, AttentionMode::sparse, rows_a_step);
    ASSERT_EQ(r.records.size(), 1u);
    EXPECT_DOUBLE_EQ(r.records[0].value, nats);
    EXPECT_EQ(r.records[0].weight, static_cast<double>(n - 1));
    const Json extra = task.extra(r.records);
    EXPECT_EQ(extra["tokens"], n - 1);
    // The first token is not predicted: its bytes do not count.
    const size_t bytes = text.size() - small_tokenizer().token_bytes(ids[0]).size();
    EXPECT_EQ(extra["bytes"], bytes);
    EXPECT_DOUBLE_EQ(extra["bits_per_byte"].get<double>(),
                     nats / std::log(2.0) / static_cast<double>(bytes));
    EXPECT_DOUBLE_EQ(extra["perplexity"].get<double>(),
                     std::exp(nats / static_cast<double>(n - 1)));
  }
}

TEST(Perplexity, WindowsScoreEveryTokenOnce) {
  const std::string text = prose(20);
  const std::vector<int32_t> ids = small_tokenizer().encode_plain(text);
  const auto n = static_cast<int64_t>(ids.size());
  for (int64_t context : {int64_t{2}, int64_t{3}, int64_t{64}, int64_t{100}, n - 1, n, n + 50}) {
    for (int64_t stride : {int64_t{0}, int64_t{1}, context / 3, context - 1}) {
      const Perplexity task("p", small_tokenizer(), {{"a.txt", text}},
                            {.context = context, .stride = stride});
      int64_t next = 1;  // the first token has nothing in front of it
      for (size_t w = 0; w < task.size(); ++w) {
        const Ask ask = task.asks(w)[0];
        const auto size = static_cast<int64_t>(ask.ids.size());
        ASSERT_LE(size, context);
        ASSERT_GE(ask.score_from, 1);
        const int64_t scored = size - ask.score_from;
        ASSERT_GT(scored, 0);
        // Its scored tokens are the text's next ones.
        for (int64_t i = 0; i < scored; ++i)
          ASSERT_EQ(ask.ids[static_cast<size_t>(ask.score_from + i)],
                    ids[static_cast<size_t>(next + i)]);
        // Behind the first window each has context - stride tokens in front of it.
        if (w > 0 && stride > 0) {
          ASSERT_GE(ask.score_from, context - stride);
        }
        next += scored;
      }
      EXPECT_EQ(next, n) << context << " " << stride;
    }
  }
}

TEST(Perplexity, NoMoreWindowsThanAskedForAndKeysTellTasksApart) {
  const std::string text = prose(20);
  const Perplexity all("p", small_tokenizer(), {{"a.txt", text}}, {.context = 64});
  const Perplexity two("p", small_tokenizer(), {{"a.txt", text}}, {.context = 64, .windows = 2});
  const Perplexity strided("p", small_tokenizer(), {{"a.txt", text}},
                           {.context = 64, .stride = 32});
  const Perplexity same("other", small_tokenizer(), {{"b.txt", text}}, {.context = 64});
  EXPECT_GT(all.size(), 2u);
  EXPECT_EQ(two.size(), 2u);
  EXPECT_FALSE(all.key() == two.key());
  EXPECT_FALSE(all.key() == strided.key());
  EXPECT_TRUE(all.key() == same.key());  // a copy of a file has the same results
}

TEST(Perplexity, BatchesAndRunsGiveTheSameDigits) {
  const Perplexity task("p", small_tokenizer(), {{"a.txt", prose(40)}},
                        {.context = 200, .stride = 100});
  const RunResult a = run_alone(task, AttentionMode::sparse, 512, 1);
  const RunResult b = run_alone(task, AttentionMode::sparse, 64, 4);
  ASSERT_EQ(a.records.size(), b.records.size());
  for (size_t i = 0; i < a.records.size(); ++i)
    EXPECT_EQ(a.records[i].value, b.records[i].value) << i;
  // Within top-k tokens sparse attention is dense attention.
  const RunResult dense = run_alone(task, AttentionMode::dense);
  for (size_t i = 0; i < a.records.size(); ++i)
    EXPECT_NEAR(a.records[i].value, dense.records[i].value, 1e-2) << i;
}

std::string refusal_of_text(const std::string& text, PerplexityOptions o) {
  try {
    const Perplexity task("p", small_tokenizer(), {{"a.txt", text}}, o);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST(Perplexity, RefusesWhatCannotBeMeasured) {
  EXPECT_THAT(refusal_of_text("", {.context = 64}), HasSubstr("a.txt: 0 tokens"));
  EXPECT_THAT(refusal_of_text("a", {.context = 64}), HasSubstr("nothing to predict"));
  EXPECT_THAT(refusal_of_text("a \xff b", {.context = 64}), HasSubstr("a.txt"));
  EXPECT_THAT(refusal_of_text(prose(3), {.context = 1}), HasSubstr("context of 1"));
  EXPECT_THAT(refusal_of_text(prose(3), {.context = 64, .stride = 64}), HasSubstr("1 to the 63"));
  EXPECT_THAT(refusal_of_text(prose(3), {.context = 64, .stride = -1}), HasSubstr("stride of -1"));
}

}  // namespace
}  // namespace fathom::eval
