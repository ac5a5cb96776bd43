// Plans against sums that are done here, number by number.
#include "plan/planner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "base/units.h"
#include "cache/kv_pool.h"
#include "model/placed_weights.h"
#include "plan/cpu_times.h"
#include "plan/measured.h"
#include "plan/plan_text.h"
#include "plan/step_times.h"
#include "support/real_config.h"

namespace fathom::plan {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;

const std::string kSource = FATHOM_SOURCE_DIR;

Config release() { return load_config("", kSource + "/models/config_671B_v3.2.json"); }

Machine machine(const char* gpu, int per_node, int nodes = 1) {
  Machine m;
  m.gpu = &gpu_model(gpu);
  m.per_node = per_node;
  m.nodes = nodes;
  return m;
}

const LayoutPlan& layout(const Plan& p, int tensor) {
  for (const LayoutPlan& l : p.layouts)
    if (l.layout.tensor == tensor) return l;
  ADD_FAILURE() << "no layout of " << tensor;
  return p.layouts.front();
}

template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return {};
}

// Weights of a layer of the 671 B model, by what ranks do with them.
constexpr double kWholeAttention = 7168. * (1536 + 576 + 128) + 1536. * 8192;  // q_a, kv_a, indexer
constexpr double kKvB = 512. * 32768;
constexpr double kHeads = 1536. * 24576 + kKvB + 16384. * 7168;  // q_b, kv_b, o
constexpr double kExpert = 3. * 7168 * 2048, kDenseMlp = 3. * 7168 * 18432;
constexpr double kPlain = 2. * (61 * 64 * 7168. + 58 * 256 * 7168.);  // bytes: bf16
constexpr double kVocab = 2. * 129280 * 7168;                         // bytes: bf16
constexpr double kScales = 1 + 4. / (128 * 128);

TEST(RankVolume, TheWholeRelease) {
  const double fp8 = 61 * (kWholeAttention + kHeads) + 3 * kDenseMlp + 58 * (257 * kExpert);
  const double all = fp8 * kScales + kPlain + 2 * kVocab;
  EXPECT_NEAR(all, 674.0e9, 0.1e9);
  EXPECT_NEAR(static_cast<double>(checkpoint_bytes(release())), all, 2e-5 * all);
  EXPECT_EQ(mtp_bytes(release()), 0);
  // A layer with experts, and the product that joins it to the model.
  const double mtp = (kWholeAttention + kHeads + 257 * kExpert + 2. * 7168 * 7168) * kScales +
                     2. * (64 + 256) * 7168;
  EXPECT_NEAR(static_cast<double>(mtp_bytes(real_config())), mtp, 2e-5 * mtp);
}

TEST(RankVolume, EightRanks) {
  const Config c = release();
  const double kv_bf16 = 2 * kKvB;  // key and value parts beside kv_b
  const RankVolume tp = rank_volume(c, {8, 1, 0}, WeightStorage::gpu_fp8);
  const double tp_bytes =
      (61 * (kWholeAttention + kHeads / 8) + 3 * kDenseMlp / 8 + 58 * 257 * kExpert / 8) * kScales +
      61 * kv_bf16 / 8 + kPlain + kVocab + kVocab / 8;
  EXPECT_NEAR(static_cast<double>(tp.total), tp_bytes, 5e-5 * tp_bytes);
  EXPECT_EQ(tp.experts_held, 256) << "a part of each";
  const RankVolume dp = rank_volume(c, {1, 8, 0}, WeightStorage::gpu_fp8);
  const double dp_bytes =
      (61 * (kWholeAttention + kHeads) + 3 * kDenseMlp + 58 * kExpert + 58 * 256 * kExpert / 8) *
          kScales +
      61 * kv_bf16 + kPlain + 2 * kVocab;
  EXPECT_NEAR(static_cast<double>(dp.total), dp_bytes, 5e-5 * dp_bytes);
  EXPECT_EQ(dp.experts_held, 32);
  // Groups of two: heads and dense MLPs halved, experts over all eight.
  const RankVolume mix = rank_volume(c, {2, 4, 0}, WeightStorage::gpu_fp8);
  EXPECT_EQ(mix.experts, dp.experts);
  EXPECT_GT(mix.total, tp.total);
  EXPECT_LT(mix.total, dp.total);
}

TEST(RankVolume, OneRankIsWhatIsPlaced) {
  for (const Config& c : {release(), real_config(), load_config(kSource + "/models/small"),
                          load_config(kSource + "/tests/data/tiny")}) {
    Config plain = c;
    plain.mtp_layers = 0;
    for (auto [numerics, storage] : {std::pair{Numerics::fp8, WeightStorage::gpu_fp8},
                                     std::pair{Numerics::bf16, WeightStorage::gpu_bf16}}) {
      const double placed = static_cast<double>(PlacedWeights::bytes_on_gpu(plain, numerics));
      // Every array begins at a multiple of 256 bytes: that is all they differ by.
      EXPECT_NEAR(static_cast<double>(rank_volume(plain, {}, storage).total), placed,
                  256.0 * 30 * c.layers);
    }
  }
}

TEST(Planner, EightH200HoldTheRelease) {
  const Plan p = make_plan(release(), machine("h200", 8), {});
  ASSERT_EQ(p.layouts.size(), 4u);
  EXPECT_EQ(p.layouts[0].name, "tp");
  EXPECT_EQ(p.layouts[1].name, "tp 4 x dp 2");
  EXPECT_EQ(p.layouts[3].name, "dp");
  constexpr double kToken = 61 * (656 + 132);  // bytes of cache
  for (const LayoutPlan& l : p.layouts) {
    SCOPED_TRACE(l.name);
    ASSERT_TRUE(l.fits()) << l.refused;
    EXPECT_EQ(l.memory.context, 163840) << "the model's own";
    const double left = 139 * kGiB * 0.98 - static_cast<double>(l.memory.weights) -
                        static_cast<double>(l.memory.workspace);
    EXPECT_NEAR(static_cast<double>(l.cache_tokens), l.layout.data * left / kToken,
                l.layout.data * 64.0);
    // Activations of 4,096 tokens, the exchange's rows and buffers: gigabytes, not tens of them.
    EXPECT_GT(l.memory.workspace, int64_t{1} << 30);
    EXPECT_LT(l.memory.workspace, int64_t{8} << 30);
    for (const Room& r : l.rooms)
      EXPECT_EQ(r.sequences, l.memory.pages / pages_for(r.context) * l.layout.data);
  }
  EXPECT_GT(layout(p, 1).cache_tokens, 4 * layout(p, 8).cache_tokens) << "dp: eight caches";
  EXPECT_EQ(p.best()->name, "dp");
  EXPECT_THAT(p.commands,
              ElementsAre("fathom convert --hf-ckpt-path DeepSeek-V3.2-Exp --save-path "
                          "DeepSeek-V3.2-Exp-mp8 --n-experts 256 --model-parallel 8",
                          "fathom serve --ckpt-path DeepSeek-V3.2-Exp-mp8 --data-parallel-size 8 "
                          "--context 163840"));
}

TEST(Planner, OneUserGetsTensorParallel) {
  Request r;
  r.concurrency = 1;
  r.folder = "/models/it's/";
  r.config_file = "c.json";
  r.context = 100000;
  const Plan p = make_plan(release(), machine("h200", 8), r);
  ASSERT_TRUE(p.best());
  EXPECT_EQ(p.best()->name, "tp");
  EXPECT_EQ(p.best()->memory.context, 100000);
  EXPECT_EQ(p.best()->sequences, 1);
  EXPECT_THAT(p.commands.back(), HasSubstr("--ckpt-path '/models/it'\\''s-mp8' --config c.json "
                                           "--tensor-parallel-size 8 --context 100000"));
}

TEST(Planner, EightH100DoNotAndWhatWould) {
  const Plan p = make_plan(release(), machine("h100", 8), {});
  EXPECT_EQ(p.best(), nullptr);
  EXPECT_TRUE(p.commands.empty());
  for (const LayoutPlan& l : p.layouts) EXPECT_THAT(l.refused, HasSubstr("not enough memory"));
  EXPECT_THAT(p.would_fit, Contains("16 x H100 SXM (80 GB) in 2 machines"));
  EXPECT_THAT(p.would_fit, Contains("8 x H200 (141 GB)"));
  EXPECT_THAT(text_of(p), HasSubstr("would fit: 16 x H100"));

  const Plan two = make_plan(release(), machine("h100", 8, 2), {});
  ASSERT_TRUE(two.best());
  EXPECT_THAT(two.commands.back(),
              HasSubstr("mpirun -np 2 --map-by ppr:1:node --hostfile HOSTS fathom serve"));
  EXPECT_THAT(two.notes, Contains(HasSubstr("assumed, not measured")));
}

TEST(Planner, GpusWithoutKernelsAreRefusedWithTheirSizes) {
  const Plan p = make_plan(release(), machine("a100-80", 32, 2), {});
  EXPECT_EQ(p.best(), nullptr);
  EXPECT_THAT(p.why, HasSubstr("no kernels for A100"));
  EXPECT_THAT(p.notes, Contains(AllOf(HasSubstr("bf16"), HasSubstr("twice as large"))));
  const RankVolume fp8 = rank_volume(release(), {64, 1, 0}, WeightStorage::gpu_fp8);
  const RankVolume bf16 = rank_volume(release(), {64, 1, 0}, WeightStorage::gpu_bf16);
  EXPECT_GT(static_cast<double>(bf16.experts), 1.99 * static_cast<double>(fp8.experts));
}

TEST(Planner, WhatDoesNotDivideIsNamed) {
  const Config c = release();
  Request r;
  r.tensor = 3;
  EXPECT_THAT(error_of([&] { make_plan(c, machine("h200", 6), r); }),
              AllOf(HasSubstr("tensor-parallel size of 3"), HasSubstr("num_attention_heads = 128"),
                    HasSubstr("2, 4, 8")));
  EXPECT_THAT(error_of([&] { make_plan(c, machine("h200", 8), r); }),
              HasSubstr("--tensor-parallel-size 3 does not divide the 8 GPUs"));
  r.tensor = 16;
  EXPECT_THAT(error_of([&] { make_plan(c, machine("h200", 8), r); }),
              HasSubstr("--tensor-parallel-size 16 does not divide the 8 GPUs"));
  r.tensor = 3;
  r.data = 2;
  EXPECT_THAT(error_of([&] { make_plan(c, machine("h200", 8), r); }),
              AllOf(HasSubstr("--tensor-parallel-size 3"), HasSubstr("6 ranks, there are 8")));
  EXPECT_TRUE(error_of([&] { make_plan(c, machine("h200", 6), Request{}); }).empty())
      << "layouts that nobody asked for are refused one by one";
  r = {};
  r.data = 0;
  EXPECT_THAT(error_of([&] { make_plan(c, machine("h200", 8), r); }), HasSubstr("0"));
  r = {};
  r.folder = "F";
  r.converted_ranks = 4;
  EXPECT_THAT(make_plan(c, machine("h200", 8), r).notes,
              Contains(AllOf(HasSubstr("F is converted for 4 ranks: on 8"),
                             HasSubstr("--model-parallel 8"))));
  r.converted_ranks = 8;
  const Plan p = make_plan(c, machine("h200", 8), r);
  EXPECT_THAT(p.commands, ElementsAre(HasSubstr("fathom serve --ckpt-path F --data")));
}

TEST(Planner, HostileRequests) {
  const Config c = release();
  EXPECT_THROW(make_plan(c, machine("h200", 0), {}), UsageError);
  EXPECT_THROW(make_plan(c, machine("h200", 8, 0), {}), UsageError);
  EXPECT_THROW(make_plan(c, machine("h200", 1 << 20), {}), UsageError);
  EXPECT_THROW(gpu_model("h300"), UsageError);
  EXPECT_THROW(gpu_model(""), UsageError);
  Request r;
  r.context = 163841;
  EXPECT_THAT(error_of([&] { make_plan(c, machine("h200", 8), r); }),
              HasSubstr("the model's own is 163840"));
  r.context = -1;
  EXPECT_THROW(make_plan(c, machine("h200", 8), r), UsageError);
  r = {};
  r.concurrency = -1;
  EXPECT_THROW(make_plan(c, machine("h200", 8), r), UsageError);
  r.concurrency = 65536;  // more than fit: as many as do
  const Plan p = make_plan(c, machine("h200", 8), r);
  for (const LayoutPlan& l : p.layouts) {
    if (!l.fits()) continue;
    EXPECT_LE(l.sequences, l.cache_tokens / l.context);
  }
}

TEST(Planner, ModelsOfOtherKinds) {
  Config dense = release();  // V3: no indexer
  dense.model_type = "deepseek_v3";
  dense.index_heads = dense.index_dim = dense.index_topk = 0;
  const Plan v3 = make_plan(dense, machine("h200", 8), {});
  const Plan v32 = make_plan(release(), machine("h200", 8), {});
  ASSERT_TRUE(v3.best() && v32.best());
  EXPECT_THAT(v3.notes, Contains(HasSubstr("no indexer")));
  EXPECT_GT(v3.best()->many.ms, v32.best()->many.ms) << "dense attention at 32K";
  const Plan with_mtp = make_plan(real_config(), machine("h200", 8), {});
  EXPECT_THAT(with_mtp.notes, Contains(HasSubstr("MTP layer")));
  EXPECT_EQ(with_mtp.best()->memory.weights, v32.best()->memory.weights) << "not loaded";
  Request drafts;
  drafts.mtp = true;
  const Plan loaded = make_plan(real_config(), machine("h200", 8), drafts);
  EXPECT_NEAR(
      static_cast<double>(layout(loaded, 8).memory.weights - layout(with_mtp, 8).memory.weights),
      static_cast<double>(with_mtp.mtp) / 8, 0.3e9)
      << "but for what every rank has whole";
  EXPECT_LT(layout(loaded, 8).cache_tokens, layout(with_mtp, 8).cache_tokens);
  EXPECT_THROW(make_plan(release(), machine("h200", 8), drafts), Error);
  for (int gpus : {1, 2, 4}) {
    const Plan small = make_plan(load_config(kSource + "/models/small"), machine("h100", gpus), {});
    ASSERT_TRUE(small.best()) << small.why;
    EXPECT_EQ(small.best()->memory.context, 8192);
    EXPECT_EQ(small.commands.size(), gpus == 1 ? 1u : 2u);
  }
  Config no_experts = load_config(kSource + "/models/small");
  no_experts.experts = 0;
  no_experts.dense_layers = no_experts.layers;
  EXPECT_TRUE(make_plan(no_experts, machine("h200", 1), {}).best());
}

TEST(Planner, NumaNodes) {
  Machine m;
  m.per_node = 2;
  m.memory = int64_t{400} << 30;
  m.read_rate = 200e9;
  Request r;
  r.concurrency = 1;
  r.context = 2048;
  const Config c = release();
  const Plan p = make_plan(c, m, r);
  ASSERT_TRUE(p.best());
  EXPECT_EQ(p.best()->name, "tp");
  EXPECT_THAT(p.commands.back(), HasSubstr("--device cpu --tensor-parallel-size 2 --context 2048"));
  // What one token reads of a rank's weights and cache, at 93 % of the rate.
  const double bytes =
      (61 * (kWholeAttention + kHeads / 2) + 3 * kDenseMlp / 2 + 58 * 9 * kExpert / 2) * kScales +
      kPlain + kVocab / 2 + 61. * 2048 * 1152;
  EXPECT_NEAR(p.best()->one.ms, bytes / (0.93 * 200e9) * 1e3, 1e-3 * p.best()->one.ms);
  EXPECT_FALSE(p.best()->prompt.known()) << "how fast these processors multiply is not known";
  m.read_rate = 0;
  const Plan unknown = make_plan(c, m, r);
  ASSERT_TRUE(unknown.best());
  EXPECT_FALSE(unknown.best()->one.known());
  m.memory = int64_t{100} << 30;
  EXPECT_EQ(make_plan(c, m, r).best(), nullptr);
}

TEST(Planner, SaysWhatRanksOnProcessorsAre) {
  Machine m;
  m.memory = int64_t{1000} << 30;
  m.per_node = 4;
  Request r;
  EXPECT_THAT(text_of(make_plan(release(), m, r)), HasSubstr("processors: 4 NUMA nodes, "));
  m.parts = 2;
  m.nodes = 2;
  EXPECT_THAT(text_of(make_plan(release(), m, r)),
              HasSubstr("processors: 8 ranks, 2 to a NUMA node in 2 machines, "));
}

TEST(StepTimes, ReproducesWhatWasMeasured) {
  const auto rows = compare_with_measured(release());
  EXPECT_GE(rows.size(), 20u);
  for (const Comparison& c : rows)
    EXPECT_LT(std::abs(c.error()), c.fitted ? 0.12 : 0.10) << c.where << ", " << c.what;
}

TEST(StepTimes, TwoGpus) {
  // Between what bytes allow and one GPU alone.
  const Config c = release();
  const GpuModel& gpu = gpu_model("h200");
  const StepTimes one(c, {}, gpu, Numerics::fp8, 8), two(c, {2, 1, 0}, gpu, Numerics::fp8, 8);
  const StepTimes far(c, {2, 1, 0}, gpu, Numerics::fp8, 1);
  const LayerTime alone = one.decode_layer(true, 1, 32768),
                  shared = two.decode_layer(true, 1, 32768);
  EXPECT_GT(shared.total(), 0.5 * alone.total());
  EXPECT_LT(shared.total(), alone.total());
  EXPECT_EQ(alone.exchange, 0);
  EXPECT_NEAR(shared.exchange, 2 * 3.2, 0.2) << "two sums of one row";
  EXPECT_GT(far.decode_layer(true, 1, 32768).exchange, 4 * shared.exchange) << "over a network";
  // Of a prompt the indexer's rows are shared out, and both halve the experts.
  EXPECT_LT(two.prompt_chunk(4096, 126976), 0.7 * one.prompt_chunk(4096, 126976));
}

TEST(StepTimes, GrowsWithWhatThereIsToDo) {
  const StepTimes t(release(), {1, 8, 0}, gpu_model("h200"), Numerics::fp8, 8);
  double last = 0;
  for (int sequences : {1, 2, 7, 8, 64, 65, 512, 4096}) {
    const double us = t.decode_step(sequences, 32768);
    EXPECT_GT(us, last) << sequences;
    last = us;
  }
  last = 0;
  for (int64_t context : {1, 100, 2048, 2049, 32768, 163840}) {
    const double us = t.decode_step(64, context);
    EXPECT_GE(us, last) << context;
    last = us;
  }
  EXPECT_GT(t.prompt(1, 4096), 0);
  EXPECT_GT(t.prompt(8192, 4096), t.prompt(8191, 4096));
}

TEST(Routing, Expectations) {
  EXPECT_NEAR(distinct_experts(256, 8, 1), 8, 1e-9);
  EXPECT_NEAR(distinct_experts(256, 8, 1e6), 256, 1e-9);
  EXPECT_EQ(distinct_experts(0, 0, 5), 0);
  // Of 8 experts over 8 ranks the busiest has about 3; of 512 tokens' every one.
  // Of two ranks the busier has 5.6 of 8.
  const Config c = release();
  EXPECT_NEAR(busiest_rank_experts(c, 1, 8), 3, 0.1);
  EXPECT_NEAR(busiest_rank_experts(c, 1, 2), 5.6, 0.1);
  EXPECT_EQ(busiest_rank_experts(c, 512, 8), 32);
  EXPECT_NEAR(busiest_rank_experts(c, 1, 1), 8, 1e-9);
  Config few = c;
  few.experts = 16;
  few.experts_per_token = 4;
  few.groups = few.kept_groups = 1;
  EXPECT_LE(busiest_rank_experts(few, 1, 64), 1);
  // A group of experts is a rank: a row reaches at most 4 of 8, itself included.
  const double reached = destinations(release(), 8);
  EXPECT_NEAR(reached, 4 * (1 - std::pow(0.75, 8)) * 7 / 8, 1e-9);
  EXPECT_EQ(destinations(release(), 1), 0);
  EXPECT_LT(destinations(release(), 2), 1);
  EXPECT_GT(destinations(release(), 16), reached);
  EXPECT_LE(destinations(release(), 1024), 8);
}

TEST(GpuModel, OfTheDriversName) {
  EXPECT_EQ(gpu_model_of_driver("NVIDIA H200")->name, "h200");
  EXPECT_EQ(gpu_model_of_driver("NVIDIA H20")->name, "h20");
  EXPECT_EQ(gpu_model_of_driver("NVIDIA H100 80GB HBM3")->name, "h100");
  EXPECT_EQ(gpu_model_of_driver("NVIDIA H100 PCIe"), nullptr) << "slower: not the table's";
  EXPECT_EQ(gpu_model_of_driver(""), nullptr);
}

}  // namespace
}  // namespace fathom::plan
