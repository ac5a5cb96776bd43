// A plan says what is computed and how large; the parts of a model are told the same of it, and an
// instance is built from it alone.
#include "runtime/compute_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "kernels/trace_ops.h"
#include "runtime/golden.h"
#include "runtime/model_instance.h"

namespace fathom {
namespace {

using golden::checkpoint;
using testing::HasSubstr;

std::string refusal(const ComputePlan& plan) {
  try {
    check_plan(checkpoint(true).config(), plan);
  } catch (const Error& e) {
    return e.what();
  }
  return "accepted";
}

ComputePlan small_plan() {
  ComputePlan p;
  p.threads = 1;
  p.kernels = "reference";
  p.step_tokens = 16;
  p.context = 100;
  p.sequences = 2;
  p.cache_pages = 4;
  return p;
}

TEST(ComputePlan, DraftsAreMadeByDefaultWhereTheyWereMeasured) {
  ComputePlan p = small_plan();
  EXPECT_FALSE(drafts_by_default(p));
  p.device = DeviceKind::cuda;
  EXPECT_TRUE(drafts_by_default(p));
  p.layout.tensor = 8;
  EXPECT_TRUE(drafts_by_default(p));
  p.layout.processes = 2;
  EXPECT_FALSE(drafts_by_default(p));
  p.layout = {1, 2, 0};
  EXPECT_FALSE(drafts_by_default(p));
}

TEST(ComputePlan, AnExchangeBetweenGpusNeedsGpusThatCanHaveIt) {
  ComputePlan p = small_plan();
  p.layout.tensor = 2;
  for (GpuExchange e : {GpuExchange::peer, GpuExchange::nccl}) {
    p.exchange = e;
    p.device = DeviceKind::cpu;
    EXPECT_THAT(refusal(p), HasSubstr("an exchange by " + std::string(name_of(e)) +
                                      " is asked for: that is between GPUs"));
    p.device = DeviceKind::cuda;
    EXPECT_EQ(refusal(p), "accepted");
  }
  p.layout = {1, 2, 0};
  EXPECT_EQ(refusal(p), "accepted");
  p.layout = {2, 1, 0, 0, 2};
  EXPECT_EQ(refusal(p), "accepted");
  p.exchange = GpuExchange::peer;
  EXPECT_THAT(refusal(p), HasSubstr("2 processes reach only their own"));
}

// Each process has whole groups or an even part of one.
TEST(RankLayout, DealsGroupsOutToProcesses) {
  const auto dealt = [](int tensor, int data, int processes) {
    ComputePlan p = small_plan();
    p.layout = {tensor, data, 0, 0, processes};
    return refusal(p);
  };
  EXPECT_EQ(dealt(2, 2, 2), "accepted");
  EXPECT_EQ(dealt(2, 2, 4), "accepted");
  EXPECT_EQ(dealt(1, 6, 3), "accepted");
  EXPECT_THAT(dealt(1, 3, 2), HasSubstr("3 ranks cannot be dealt out evenly to 2 processes"));
  EXPECT_THAT(dealt(2, 3, 2), HasSubstr("no whole groups and no even part of one"));

  const RankLayout whole{2, 4, 0, 1, 2};  // process 1 of 2 has groups 2 and 3
  EXPECT_EQ(whole.first_group_here(), 2);
  EXPECT_EQ(whole.groups_here(), 2);
  EXPECT_EQ(whole.group_ranks_here(), 2);
  EXPECT_EQ(whole.group_processes(), 1);
  EXPECT_EQ(whole.in_group(3).rank, 6);
  EXPECT_EQ(whole.in_group(3).place_here(), 2);
  EXPECT_FALSE(whole.has_group(1));
  const RankLayout part{4, 2, 0, 3, 4};  // process 3 of 4 has the second half of group 1
  EXPECT_EQ(part.first_group_here(), 1);
  EXPECT_EQ(part.groups_here(), 1);
  EXPECT_EQ(part.group_ranks_here(), 2);
  EXPECT_EQ(part.group_processes(), 2);
  EXPECT_EQ(part.first_process_of(1), 2);
  EXPECT_EQ(part.in_group(1).rank, 6);
  EXPECT_FALSE(part.has_group(0));
}

TEST(ComputePlan, RefusesSizesBelowOneAndRanksThatDoNotDivideTheModel) {
  EXPECT_EQ(refusal(small_plan()), "accepted");
  ComputePlan p = small_plan();
  p.sequences = 0;
  EXPECT_THAT(refusal(p), HasSubstr("0 sequences"));
  p = small_plan();
  p.step_tokens = -1;
  EXPECT_THAT(refusal(p), HasSubstr("-1 tokens a step"));
  p = small_plan();
  p.layout.tensor = 2;
  EXPECT_EQ(refusal(p), "accepted");
  p.layout.tensor = 3;
  EXPECT_THAT(refusal(p), HasSubstr("size of 3 does not fit this model: num_attention_heads = 4 is "
                                    "not divisible by it; 1, 2, 4 would"));
  p.layout.tensor = 0;
  EXPECT_THAT(refusal(p), HasSubstr("0 ranks"));
}

TEST(ComputePlan, TellsEveryPartTheSame) {
  ComputePlan p = small_plan();
  p.numerics = Numerics::fp8;
  p.batch_invariant = true;
  p.mtp = true;
  const Config& c = checkpoint(true).config();
  const Workload w = workload_of(c, p);
  EXPECT_EQ(w.step_tokens, 16);
  EXPECT_EQ(w.context, 100);
  EXPECT_EQ(w.sequences, step_sequences(2));
  EXPECT_TRUE(w.batch_invariant);
  EXPECT_EQ(forward_options(p).step_tokens, 16);
  EXPECT_EQ(forward_options(p).context, 100);
  EXPECT_TRUE(form_policy(c, p).one_form);
  EXPECT_EQ(kv_shape(c, p).latent_format, KvFormat::fp8);
  EXPECT_EQ(kv_shape(c, p).layers, c.layers + c.mtp_layers);
  p.cache_format = KvFormat::bf16;
  EXPECT_EQ(kv_shape(c, p).latent_format, KvFormat::bf16);
  EXPECT_EQ(kv_shape(c, p).index_format, KvFormat::fp8);  // follows the numerics alone

  EXPECT_THAT(describe(c, p), HasSubstr("fp8 numerics, bf16 cache, sparse attention "
                                        "(batch-invariant); steps of 16 tokens, context 100 "
                                        "tokens, 2 sequences"));
}

class Counter final : public TraceOps {
 public:
  using TraceOps::TraceOps;
  int steps = 0;
  StepInputs begin_step(const StepInputs& in) override {
    ++steps;
    return inner_.begin_step(in);
  }
};

// What a benchmark and an observer rely on: the wrapper sees the forward pass, the logits of a step
// are those of its rows, and two instances may take turns on one cache.
TEST(ModelInstance, IsWhatItsPlanSays) {
  const Checkpoint& c = checkpoint(true);
  ThreadPool pool(1);
  Counter* counter = nullptr;
  ModelInstance first(c.config(), c.weights(), small_plan(), pool, [&](Ops& ops) {
    auto made = std::make_unique<Counter>(ops);
    counter = made.get();
    return made;
  });
  EXPECT_EQ(first.cache().pages(), 4);
  EXPECT_EQ(&first.ops(), counter);
  EXPECT_NE(&first.ops(), &first.device_ops());
  const void* room = first.logits(2).data;
  EXPECT_EQ(first.logits(1).data, room);

  const std::vector<int32_t> ids{1, 2, 3}, pages{1};
  StepBatch batch(16, step_sequences(2), 4);
  batch.add(ids, 0, pages, false, first.forms());
  batch.want_logits(1);
  batch.want_logits(2);
  auto copy = [&](Tensor t) {
    return std::vector<float>(t.row<float>(0), t.row<float>(0) + t.rows() * t.row_stride);
  };
  Tensor out = first.step(batch);
  EXPECT_EQ(out.rows(), 2);
  EXPECT_EQ(out.row_size(), c.config().vocab);
  EXPECT_EQ(counter->steps, 1);

  // The fourth token, by another instance that finds the first three in the cache.
  ModelInstance second(c.config(), c.weights(), small_plan(), pool, {}, &first.cache());
  EXPECT_EQ(&second.ops(), &second.device_ops());
  const std::vector<int32_t> next{4};
  batch.clear();
  batch.add(next, 3, pages, true, first.forms());
  batch.want_logits(0);
  const std::vector<float> shared = copy(second.step(batch));
  EXPECT_EQ(counter->steps, 1);
  EXPECT_EQ(copy(first.step(batch)), shared);
}

TEST(ModelInstance, RefusesMtpOfACheckpointWithoutIt) {
  CheckpointOptions without;
  without.with_mtp = false;
  const auto c = Checkpoint::load(golden::kData + "tiny", without);
  ComputePlan p = small_plan();
  p.mtp = true;
  ThreadPool pool(1);
  EXPECT_THROW(ModelInstance(c->config(), c->weights(), p, pool), Error);
}

}  // namespace
}  // namespace fathom
