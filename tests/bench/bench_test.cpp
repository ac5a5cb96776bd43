// The cost model against figures worked out by hand, and the runner on the tiny checkpoint. How
// fast anything is is never asserted.
#include "bench/bench_runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "bench/machine_limits.h"
#include "io/machine.h"
#include "kernels/cpu/peak_rate.h"
#include "model/checkpoint.h"
#include "support/real_config.h"

namespace fathom {
namespace {

using testing::HasSubstr;

const std::string kSmall = FATHOM_SOURCE_DIR "/models/small";
const std::string kTiny = FATHOM_SOURCE_DIR "/tests/data/tiny";

CostModel model_of(const Config& c, Numerics numerics, AttentionMode attention) {
  return CostModel(c, volumes_of(c), kv_shape(c, numerics, std::nullopt, false), attention,
                   form_policy(c, attention, numerics, false));
}

StepCost decode_at(const CostModel& model, int64_t position, int batch = 1) {
  std::vector<SequenceRun> runs(static_cast<size_t>(batch), {position, 1, true});
  return model.step(runs, batch, 0);
}

StepCost prefill_of(const CostModel& model, int64_t first, int tokens) {
  SequenceRun run{first, tokens, false};
  return model.step({&run, 1}, 0, 0);
}

TEST(BenchModel, VolumesOfTheSmallModel) {
  const Config c = load_config(kSmall);
  const ModelVolumes v = volumes_of(c);
  // Per layer q_a 98,304, q_b 196,608, kv_a 221,184, kv_b 524,288, o 196,608, wk 49,152; one dense
  // MLP of 1,179,648; in four layers gate 6,144 and shared expert 147,456.
  EXPECT_EQ(v.always.parameters, 5 * 1286144 + 1179648 + 4 * (6144 + 147456));
  // 80 blocks a layer, 72 in the dense MLP, 9 in a shared expert, 4 bytes each; the gate in bf16.
  EXPECT_EQ(v.always.bytes,
            5 * (1286144 + 4 * 80) + (1179648 + 4 * 72) + 4 * (2 * 6144 + 147456 + 4 * 9));
  EXPECT_EQ(v.index_query.parameters, 5 * (262144 + 3072));
  EXPECT_EQ(v.index_query.bytes, 5 * (262144 + 4 * 16 + 2 * 3072));
  EXPECT_EQ(v.expert_count, 64);
  EXPECT_EQ(v.expert().parameters, 147456);
  EXPECT_EQ(v.expert().bytes, 147492);
  EXPECT_EQ(v.head.parameters, 1572864);
  EXPECT_EQ(v.head.bytes, 3145728);
  EXPECT_EQ(v.embed.bytes, 3145728);
}

TEST(BenchModel, StoredVolumesAreTheNominalOnes) {
  auto checkpoint = Checkpoint::load(kSmall);  // with its MTP layer, which must not count
  const ModelVolumes nominal = volumes_of(checkpoint->config());
  const ModelVolumes stored = volumes_of(checkpoint->config(), checkpoint->weights());
  EXPECT_EQ(stored.bytes(), nominal.bytes());
  EXPECT_EQ(stored.parameters(), nominal.parameters());
  EXPECT_EQ(stored.always.bytes, nominal.always.bytes);
  EXPECT_TRUE(checkpoint->weights().mtp.has_value()) << "counting changed what it counted";
}

TEST(BenchModel, DecodeStepOfTheSmallModelAboveTopK) {
  const CostModel model = model_of(load_config(kSmall), Numerics::bf16, AttentionMode::sparse);
  SequenceRun run{511, 1, true};  // 512 keys, of which 256 are picked
  const StepCost cost = model.step({&run, 1}, 1, 16);
  EXPECT_EQ(cost.bytes.weights, 8251376 + 1341760 + 2 * 384 + 3145728);
  EXPECT_EQ(cost.bytes.experts, 16 * 147492);
  // 256 latent rows and all 512 index rows read, one of each written, in bf16.
  EXPECT_EQ(cost.bytes.cache, 5 * (256 * 1152 + 512 * 256 + 1152 + 256));
  EXPECT_EQ(cost.flops.projections, 2 * (8224768 + 1326080));
  EXPECT_EQ(cost.flops.experts, 2 * 4 * 4 * 147456);
  EXPECT_EQ(cost.flops.head, 2 * 1572864);
  EXPECT_EQ(cost.flops.indexer, 5 * 2 * 8 * 128 * 512);
  EXPECT_EQ(cost.flops.attention, 5 * 256 * 2 * 4 * (512 + 64 + 512));
}

TEST(BenchModel, UpToTopKNothingIsScored) {
  const CostModel model = model_of(load_config(kSmall), Numerics::bf16, AttentionMode::sparse);
  EXPECT_EQ(decode_at(model, 255).flops.indexer, 0);
  EXPECT_EQ(decode_at(model, 256).flops.indexer, 5 * 2 * 8 * 128 * 257);
  // Three prompt tokens see 1 + 2 + 3 keys in expanded form, and share the three rows they read.
  const StepCost cost = prefill_of(model, 0, 3);
  EXPECT_EQ(cost.flops.attention, 5 * 6 * 2 * 4 * (128 + 64 + 128));
  EXPECT_EQ(cost.bytes.cache, 5 * (3 * 1152 + 3 * (1152 + 256)));
  EXPECT_EQ(cost.flops.head, 0);
}

TEST(BenchModel, DenseAttentionReadsAllRowsAndNoIndexerQuery) {
  const Config c = load_config(kSmall);
  const CostModel sparse = model_of(c, Numerics::bf16, AttentionMode::sparse);
  const CostModel dense = model_of(c, Numerics::bf16, AttentionMode::dense);
  const StepCost a = decode_at(sparse, 999), b = decode_at(dense, 999);
  EXPECT_EQ(a.bytes.weights - b.bytes.weights, volumes_of(c).index_query.bytes);
  EXPECT_EQ(b.flops.indexer, 0);
  EXPECT_EQ(b.flops.attention, 5 * 1000 * 2 * 4 * (512 + 64 + 512));
  // Index keys are cached all the same.
  EXPECT_EQ(b.bytes.cache, 5 * (1000 * 1152 + 1152 + 256));
}

TEST(BenchModel, TheRealModelByThePublishedFigures) {
  const Config c = real_config();
  const ModelVolumes v = volumes_of(c);
  EXPECT_EQ(kv_shape(c, Numerics::fp8, std::nullopt, false).bytes_per_token(), 61 * 788);
  // 671.0 B of V3 and the indexers of 61 layers.
  EXPECT_NEAR(static_cast<double>(v.parameters()), 671.9e9, 0.3e9);
  const CostModel sparse = model_of(c, Numerics::fp8, AttentionMode::sparse);
  const StepCost one = decode_at(sparse, 0);
  // "37 B active": two FLOP for each weight a token passes, the embedding being a look-up.
  EXPECT_NEAR((one.flops.projections + one.flops.experts + one.flops.head) / 2, 37e9, 0.6e9);

  const CostModel dense = model_of(c, Numerics::bf16, AttentionMode::dense);
  // One key more: 278,528 FLOP a layer absorbed, 81,920 expanded, 16,384 in the indexer.
  EXPECT_EQ(decode_at(dense, 5001).flops.attention - decode_at(dense, 5000).flops.attention,
            61 * 278528.0);
  EXPECT_EQ(prefill_of(dense, 5001, 1).flops.attention - prefill_of(dense, 5000, 1).flops.attention,
            61 * 81920.0);
  EXPECT_EQ(decode_at(sparse, 5001).flops.indexer - decode_at(sparse, 5000).flops.indexer,
            61 * 16384.0);
  // Sparse attention no longer grows past top-k, its cache traffic only by the index rows.
  EXPECT_EQ(decode_at(sparse, 131071).flops.attention, 61 * 2048 * 278528.0);
  EXPECT_EQ(decode_at(sparse, 131071).bytes.cache, 61 * (2048 * 656.0 + 131072 * 132.0 + 788));
}

TEST(BenchModel, PromptsChangeFormWhereTheAbsorbedOneIsCheaper) {
  const Config c = real_config();
  const CostModel model = model_of(c, Numerics::bf16, AttentionMode::sparse);
  const int64_t crossover =  // near 2048 * 278,528 / 81,920 = 6,963, as measured
      form_policy(c, AttentionMode::sparse, Numerics::bf16, false).expanded_below;
  ASSERT_GT(crossover, 2048);
  EXPECT_EQ(prefill_of(model, crossover - 1, 1).flops.attention, 61 * crossover * 81920.0);
  EXPECT_EQ(prefill_of(model, crossover, 1).flops.attention, 61 * 2048 * 278528.0);
  // Above it a chunk reads the rows its tokens picked, and never a row twice.
  const StepCost chunk = prefill_of(model, 100000, 512);
  EXPECT_EQ(chunk.bytes.cache, 61 * (100512 * 1152.0 + 100512 * 256.0 + 512 * (1152.0 + 256.0)));
}

TEST(BenchModel, ExpectedDistinctExperts) {
  const CostModel model = model_of(real_config(), Numerics::bf16, AttentionMode::sparse);
  EXPECT_EQ(model.moe_layers(), 58);
  EXPECT_NEAR(model.expected_expert_reads(1), 58 * 8, 1e-6);
  // Two tokens: 16 less the 8 * 8 / 256 they share on average.
  EXPECT_NEAR(model.expected_expert_reads(2), 58 * 15.75, 1e-6);
  EXPECT_NEAR(model.expected_expert_reads(100000), 58 * 256, 1e-6);
}

TEST(MachineLimits, AreMeasuredByLoopsThatDoTheWork) {
  ThreadPool pool(2);
  for (Numerics n : {Numerics::exact, Numerics::bf16}) {
    MachineLimits limits = measure_limits(n, pool, 1 << 21);
    EXPECT_GT(limits.read_per_s, 0);
    EXPECT_GT(limits.flops_per_s, 0);
    EXPECT_EQ(limits.buffer, 1 << 21);
    EXPECT_EQ(limits.threads, 2);
    EXPECT_FALSE(limits.processor.empty());
    EXPECT_FALSE(limits.instruction.empty());
  }
}

TEST(MachineLimits, TheReadingLoopReadsEveryWord) {
  const PeakKernels& kernels = peak_kernels();
  alignas(64) static uint64_t words[1024] = {};
  EXPECT_EQ(kernels.read(words, sizeof(words)), 0U);
  for (uint64_t& word : words) {
    word = 0x123456789abcdef0;
    EXPECT_EQ(kernels.read(words, sizeof(words)), 0x123456789abcdef0U) << &word - words;
    word = 0;
  }
}

TEST(MachineLimits, TheBufferIsWellBeyondTheCache) {
  const int64_t bytes = read_buffer_bytes(64 << 20);
  EXPECT_EQ(bytes % 4096, 0);
  EXPECT_LE(bytes, 512 << 20);
  if (available_memory() > int64_t{4} << 30) {
    EXPECT_EQ(bytes, 512 << 20);
  }
}

class BenchRunnerTest : public testing::Test {
 protected:
  BenchRunnerTest() {
    options_.compute.threads = 2;
    options_.contexts = {8, 80};  // below and above the top-k of 64
    options_.batches = {1, 3};
    options_.decode_tokens = 3;
    options_.repeat = 2;
    options_.limits_buffer = 1 << 20;
  }
  std::vector<BenchRow> run() {
    BenchRunner runner(checkpoint_->config(), checkpoint_->weights(), options_);
    std::vector<BenchRow> rows;
    runner.run([&](const BenchRow& row) { rows.push_back(row); });
    notes_ = runner.notes();
    return rows;
  }
  std::string error() {
    try {
      run();
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  }

  std::unique_ptr<Checkpoint> checkpoint_ = Checkpoint::load(kTiny);
  BenchOptions options_;
  std::vector<std::string> notes_;
};

TEST_F(BenchRunnerTest, EveryContextWithEveryBatch) {
  const auto rows = run();
  ASSERT_EQ(rows.size(), 4U);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(rows[i].context, i < 2 ? 8 : 80);
    EXPECT_EQ(rows[i].batch, i % 2 ? 3 : 1);
    EXPECT_EQ(rows[i].skipped, "");
    EXPECT_EQ(rows[i].prefill.has_value(), i % 2 == 0);
    ASSERT_TRUE(rows[i].decode.has_value());
    EXPECT_EQ(rows[i].decode->tokens, rows[i].batch);
    EXPECT_EQ(rows[i].decode->runs, 2);
    EXPECT_GT(rows[i].decode->seconds, 0);
  }
  EXPECT_EQ(rows[2].prefill->tokens, 80);
  // One token is routed to three experts, three tokens to at most nine of the twelve.
  EXPECT_EQ(rows[2].decode->experts_per_layer, 3);
  EXPECT_GE(rows[3].decode->experts_per_layer, 3);
  EXPECT_LE(rows[3].decode->experts_per_layer, 9);
  // One MoE layer, three experts: the cost is that of the experts seen.
  const ModelVolumes v = volumes_of(checkpoint_->config());
  EXPECT_EQ(rows[2].decode->cost.bytes.experts, 3.0 * static_cast<double>(v.expert().bytes));
  EXPECT_EQ(rows[0].decode->cost.flops.indexer, 0);
  EXPECT_GT(rows[2].decode->cost.flops.indexer, 0);
}

TEST_F(BenchRunnerTest, PromptsAreCutIntoChunks) {
  options_.contexts = {80};
  options_.batches = {1};
  options_.compute.step_tokens = 32;
  const auto rows = run();
  const double weights = rows[0].prefill->cost.bytes.weights;
  options_.compute.step_tokens = 512;
  // Three chunks read the weights three times, but the head only for the last token.
  const ModelVolumes v = volumes_of(checkpoint_->config());
  EXPECT_NEAR(weights - run()[0].prefill->cost.bytes.weights,
              2.0 * static_cast<double>(v.always.bytes + v.index_query.bytes), 1);
}

TEST_F(BenchRunnerTest, WhatDoesNotFitIsSkippedAndTheRestRuns) {
  options_.contexts = {80, 100000};
  options_.available_memory = 400 << 20;
  const auto rows = run();
  ASSERT_EQ(rows.size(), 4U);
  EXPECT_TRUE(rows[1].decode.has_value());
  EXPECT_THAT(rows[2].skipped, HasSubstr("of cache in bf16"));
  EXPECT_FALSE(rows[3].decode.has_value());
}

TEST_F(BenchRunnerTest, TooLittleMemoryForAnyStep) {
  options_.available_memory = 1 << 20;
  EXPECT_THAT(error(), HasSubstr("not enough memory: steps of 512 tokens need a workspace of"));
}

TEST_F(BenchRunnerTest, CachesOfMoreSequencesMayBeCopies) {
  options_.batches = {4};
  options_.contexts = {80};
  options_.prefilled_tokens = 100;
  EXPECT_TRUE(run()[0].decode.has_value());
  EXPECT_THAT(notes_, testing::Contains(
                          HasSubstr("the caches of sequences 3 to 4 are copies of the first 2")));
}

TEST_F(BenchRunnerTest, ImpossibleOptions) {
  options_.contexts = {0};
  EXPECT_THAT(error(), HasSubstr("a context of 0 is asked for"));
  options_.contexts = {163838};
  EXPECT_THAT(error(), HasSubstr("a context of 163838 and 3 tokens decoded after it pass the "
                                 "model's 163840 positions"));
  options_.contexts = {8};
  options_.batches = {1, 0};
  EXPECT_THAT(error(), HasSubstr("a batch of 0 is asked for"));
  options_.batches = {1025};
  EXPECT_THAT(error(), HasSubstr("a batch of 1025 is asked for: 1 to 1024"));
  options_.batches = {};
  EXPECT_THAT(error(), HasSubstr("a context and a batch"));
}

}  // namespace
}  // namespace fathom
