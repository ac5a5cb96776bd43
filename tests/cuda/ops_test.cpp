// The operators on the GPU against the reference on copies of the same inputs, at the bundled
// model's dims and V3.2's; and what holds between operators: stale codes, fused positions, padded
// tokens, recorded steps.
#include "base/error.h"
#include "kernels/cuda/cuda_ops_plan.h"
#include "layer.h"

namespace fathom::cuda {
namespace {

// Every op on the reference's own inputs: after each, the GPU's result is measured and then
// replaced by the reference's, so that no op inherits another's rounding.
class OpByOp : public OpsTest {
 protected:
  void compare() {
    struct Result {
      std::string op;
      Tensor Layer::*at;
      std::vector<std::byte> bytes;
    };
    std::vector<Result> wanted;
    std::vector<Tensor> after_each;
    run_layer(*reference, host, [&](const char* op, Tensor Layer::*at) {
      const Tensor& t = host.*at;
      const std::byte* p = static_cast<const std::byte*>(t.data);
      wanted.push_back({op, at, {p, p + t.size() * size_of(t.dtype)}});
    });
    size_t i = 0;
    dev.up.kv_b = {};  // the rows that attention leaves are looked at, so codes alone will not do
    run_layer(*gpu, dev, [&](const char* op, Tensor Layer::*at) {
      Result& want = wanted[i++];
      ASSERT_EQ(want.op, op);
      std::vector<std::byte> memory;
      Tensor got = fetched(dev.*at, memory), exact = got;
      exact.data = want.bytes.data();
      judge(op, got, exact);
      push(exact, dev.*at);
      if (std::string(op) == "scaled head weights") compare_cache_and_codes();
    });
  }

  void judge(const std::string& op, const Tensor& got, const Tensor& want) {
    if (op == "ids" || op == "picked") {
      std::vector<float> g = values_of(got), w = values_of(want);
      int64_t off = 0, n = int64_t{live} * want.row_size();
      for (int64_t i = 0; i < n; ++i) off += g[i] != w[i];
      // Sums in another order may swap neighbours of nearly equal score.
      EXPECT_LE(off, n / 100) << op;
      return;
    }
    // Results that pass through a second rounding (activations, probabilities, latent queries) may
    // flip some of it; others differ where a tie of the one rounding falls elsewhere. The tensor
    // core adds the 32 products of one FP8 instruction to fewer bits than float32 has: up to 1e-3.
    const std::string& o = op;
    const bool product =
        o == "q_a" || o == "kv_a" || o == "index_k" || o == "q_b" || o == "index q_b" || o == "o";
    const bool twice = o == "mlp" || o == "moe" || o == "attended";
    // A 1e-3 that moves one code in a hundred by a sixteenth of its value is most of an MLP's.
    double bound = twice && fp8              ? 1.2e-2
                   : twice                   ? 6e-3
                   : o == "embed"            ? 0.0
                   : o == "residual"         ? 1e-9
                   : product && fp8          ? 2e-3
                   : o == "logits"           ? 3e-5  // sums of 7168 cut to the adder's width
                   : got.dtype == DType::f32 ? 2e-6
                                             : 4e-4;
    double off = distance(got, want);
    EXPECT_LE(off, bound) << op;
    RecordProperty(op, std::to_string(off));
  }

  void compare_cache_and_codes() {
    std::vector<uint8_t> latent(latent_bytes), index(index_bytes);
    gpu->download(latent.data(), dev.kv.latent, latent.size());
    gpu->download(index.data(), dev.kv.index, index.size());
    auto differing = [](const std::vector<uint8_t>& got, const std::byte* want) {
      int64_t n = 0;
      for (size_t i = 0; i < got.size(); ++i) n += got[i] != static_cast<uint8_t>(want[i]);
      return n;
    };
    // A normed value that rounds the other way changes a byte or two, a rotated one up to 128.
    int64_t tokens = static_cast<int64_t>(positions.size());
    EXPECT_LE(differing(latent, host.kv.latent), 4 + tokens * 4);
    EXPECT_LE(differing(index, host.kv.index), 128 + tokens * 16);
    gpu->upload(dev.kv.latent, host.kv.latent, latent.size());
    gpu->upload(dev.kv.index, host.kv.index, index.size());
    std::vector<uint8_t> codes(host.index_q8.size() * size_of(host.index_q8.dtype));
    gpu->download(codes.data(), dev.index_q8.data, codes.size());
    EXPECT_EQ(std::memcmp(codes.data(), host.index_q8.data, codes.size()), 0) << "index queries";
  }
};

TEST_F(OpByOp, SmallDimsFp8Mixed) {
  prepare(Numerics::fp8, kSmall, Form::mixed);
  compare();
}
TEST_F(OpByOp, SmallDimsFp8Decode) {
  prepare(Numerics::fp8, kSmall, Form::decode);
  compare();
}
TEST_F(OpByOp, SmallDimsBf16Mixed) {
  prepare(Numerics::bf16, kSmall, Form::mixed);
  compare();
}
TEST_F(OpByOp, SmallDimsFp8DenseAttention) {
  prepare(Numerics::fp8, kSmall, Form::mixed, {}, /*sparse=*/false);
  compare();
}
TEST_F(OpByOp, SmallDimsBf16Expanded) {
  prepare(Numerics::bf16, kSmall, Form::expanded);
  compare();
}
TEST_F(OpByOp, SmallDimsBf16ExpandedDense) {
  prepare(Numerics::bf16, kSmall, Form::expanded, {}, /*sparse=*/false);
  compare();
}
TEST_F(OpByOp, SmallDimsBatchInvariant) {
  prepare(Numerics::fp8, kSmall, Form::mixed, {}, true, true);
  compare();
}
TEST_F(OpByOp, RealDimsFp8Decode) {
  prepare(Numerics::fp8, kReal, Form::decode);
  compare();
}
TEST_F(OpByOp, RealDimsBf16Decode) {
  prepare(Numerics::bf16, kReal, Form::decode);
  compare();
}

// Copies between the ops change which kernels start while the one before them still runs, and with
// that what a missing wait would let them see.
TEST_F(WholeLayer, RunsAgainToTheSameBits) {
  prepare(Numerics::fp8, kReal, Form::mixed);
  run_layer(*gpu, dev, ignore);
  const Results first = results();
  Buffer copy(size_t{64} << 20, MemoryKind::device);
  cudaStream_t stream = static_cast<cudaStream_t>(gpu->stream());
  for (const std::string after : {"nothing", "rms_norm", "q_b", "picked", "attended", "ids"})
    for (int run = 0; run < 40 && !HasFailure(); ++run) {
      reset_cache();
      run_layer(*gpu, dev, [&](const char* op, Tensor Layer::*result) {
        if (op != after) return;
        const Tensor& t = dev.*result;
        FATHOM_CUDA(cudaMemcpyAsync(copy.data(), t.data,
                                    static_cast<size_t>(t.size()) * size_of(t.dtype),
                                    cudaMemcpyDeviceToDevice, stream));
      });
      SCOPED_TRACE("run " + std::to_string(run) + ", a copy after " + after);
      expect_same(first, results());
    }
}

TEST_F(WholeLayer, FusedOpsChangeNothing) {
  prepare(Numerics::fp8, kSmall, Form::mixed);
  run_layer(*gpu, dev, ignore);
  const Results fused = results();
  reset_cache();
  CudaSettings apart;
  apart.fuse = apart.dependent_launch = false;
  gpu = make_cuda_ops(numerics_, workload, apart);
  run_layer(*gpu, dev, ignore);
  expect_same(fused, results());
}

// At the real dims attention leaves codes: beside its rows, or in place of them.
TEST_F(WholeLayer, AttendedRowsAsCodesChangeNothing) {
  prepare(Numerics::fp8, kReal, Form::mixed);
  CudaSettings apart;
  apart.fuse = false;
  const QWeight kv_b = dev.up.kv_b;
  auto run = [&](bool alone, CudaSettings settings) {
    dev.up.kv_b = alone ? kv_b : QWeight{};
    gpu = make_cuda_ops(numerics_, workload, settings);
    reset_cache();
    run_layer(*gpu, dev, ignore);
    return results();
  };
  const Results beside = run(false, {});
  expect_same(beside, run(true, apart));
  Results alone = run(true, {});
  alone["attended"] = beside.at("attended");  // what an earlier run has left
  expect_same(beside, alone);
}

TEST_F(WholeLayer, RecordedStepServesOtherPositions) {
  prepare(Numerics::fp8, kSmall, Form::decode);
  auto other_step = [&] {
    for (int t = 0; t < live; ++t) positions[t] = positions[t] > 60 ? positions[t] - 7 : 3 + t;
    for (int t = 0; t < live; ++t) ids[t] = static_cast<int32_t>((ids[t] * 31 + 7) % d.vocab);
  };
  cudaStream_t stream = static_cast<cudaStream_t>(gpu->stream());
  run_layer(*gpu, dev, ignore);  // loads every kernel
  const Results eager_first = results();
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  FATHOM_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  run_layer(*gpu, dev, ignore);
  FATHOM_CUDA(cudaStreamEndCapture(stream, &graph));
  FATHOM_CUDA(cudaGraphInstantiate(&exec, graph, 0));
  reset_cache();
  FATHOM_CUDA(cudaGraphLaunch(exec, stream));
  expect_same(eager_first, results());  // the step that was recorded

  other_step();
  reset_cache();
  gpu->restage(inputs());
  FATHOM_CUDA(cudaGraphLaunch(exec, stream));
  const Results replayed = results();
  reset_cache();
  run_layer(*gpu, dev, ignore);
  expect_same(replayed, results());  // a replay with other inputs
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
}

TEST_F(WholeLayer, BatchInvariantTokensDoNotSeeEachOther) {
  prepare(Numerics::fp8, kSmall, Form::mixed, {}, true, true);
  run_layer(*gpu, dev, ignore);
  std::vector<std::byte> all_memory, one_memory;
  Tensor all = fetched(dev.normed, all_memory);
  // The first token alone: same position, same cache.
  reset_cache();
  positions.resize(1);
  sequence_of.resize(1);
  ids.resize(1);
  spans.resize(1);
  logit_rows = {0};
  live = 1;
  Layer whole = dev;
  for (Tensor Layer::*m :
       {&Layer::residual, &Layer::normed, &Layer::update, &Layer::q_low, &Layer::kv_a_out,
        &Layer::index_k_out, &Layer::weights_out, &Layer::q, &Layer::index_q, &Layer::index_q8,
        &Layer::picked, &Layer::attended, &Layer::ids, &Layer::weight, &Layer::logits})
    dev.*m = (dev.*m).slice(0, 1);
  run_layer(*gpu, dev, ignore);
  Tensor one = fetched(dev.normed, one_memory);
  EXPECT_EQ(std::memcmp(one.data, all.data, static_cast<size_t>(d.hidden) * 2), 0);
  dev = whole;
}

TEST_F(WholeLayer, CodesOfOverwrittenRowsAreNotUsedAgain) {
  prepare(Numerics::fp8, kSmall, Form::decode);
  gpu->begin_step(inputs());
  const int64_t t = static_cast<int64_t>(positions.size());
  std::vector<Bf16> x = random_bf16(static_cast<size_t>(t) * d.hidden, 77);
  gpu->upload(dev.residual.data, x.data(), x.size() * 2);
  gpu->rms_norm(dev.normed, dev.residual, dev.norm, 1e-6f);
  gpu->linear(dev.update.columns(0, 128), dev.normed, dev.index_k);
  // Other values in the same memory, written by an op that makes no codes.
  std::vector<int32_t> reversed(t);
  for (int64_t i = 0; i < t; ++i) reversed[i] = static_cast<int32_t>(t - 1 - i);
  DeviceArray<int32_t> rows(reversed);
  gpu->gather_rows(dev.normed, dev.residual, {rows.data(), static_cast<size_t>(t)});
  gpu->linear(dev.index_k_out, dev.normed, dev.index_k);
  // The same rows somewhere else, never quantised before.
  gpu->gather_rows(dev.update, dev.residual, {rows.data(), static_cast<size_t>(t)});
  gpu->linear(dev.kv_a_out.columns(0, 128), dev.update, dev.index_k);
  std::vector<std::byte> a, b;
  Tensor stale = fetched(dev.index_k_out, a), fresh = fetched(dev.kv_a_out, b);
  for (int64_t r = 0; r < t; ++r)
    EXPECT_EQ(std::memcmp(stale.row<Bf16>(r), fresh.row<Bf16>(r), 256), 0) << r;
}

TEST_F(WholeLayer, PicksAreTheBestOfTheOpsOwnScores) {
  prepare(Numerics::fp8, kSmall, Form::mixed);
  run_layer(*gpu, dev, ignore);
  const StepInputs in = gpu->begin_step(inputs());
  const int64_t t = static_cast<int64_t>(positions.size());
  std::vector<int32_t> all(t);
  std::iota(all.begin(), all.end(), 0);
  DeviceArray<float> scores(static_cast<size_t>(t * kContext));
  gpu->index_scores(Tensor(scores.data(), DType::f32, {t, kContext}), all, dev.index_q8,
                    dev.weights_out, dev.kv, in.batch);
  gpu->synchronize();
  std::vector<float> s = scores.download();
  std::vector<std::byte> memory;
  Tensor picked = fetched(dev.picked, memory);
  for (int64_t row = 0; row < t; ++row) {
    std::vector<int32_t> order(positions[row] + 1);
    std::iota(order.begin(), order.end(), 0);
    const float* v = &s[row * kContext];
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return v[a] > v[b]; });
    if (static_cast<int>(order.size()) > d.topk) order.resize(d.topk);
    std::sort(order.begin(), order.end());
    order.resize(d.topk, -1);
    EXPECT_EQ(std::memcmp(order.data(), picked.row<int32_t>(row), d.topk * 4), 0) << "row " << row;
  }
}

// Plans: no GPU.

QWeight fp8_weight(uintptr_t data, uintptr_t scale, int64_t rows, int64_t cols) {
  QWeight w;
  w.data = reinterpret_cast<const void*>(data);
  w.dtype = DType::fp8_e4m3;
  w.rows = rows;
  w.cols = cols;
  w.scale = reinterpret_cast<const float*>(scale);
  w.scale_stride = cols / 128;
  return w;
}

TEST(OpsPlan, NeighbouringWeightsBecomeOneProduct) {
  // In memory: q_a [256, 384] | index_k [128, 384] | kv_a [576, 384]; asked for in another order.
  const uintptr_t code = 0x10000, scale = 0x900000;
  QWeight q_a = fp8_weight(code, scale, 256, 384);
  QWeight index_k = fp8_weight(code + 256 * 384, scale + 2 * 3 * 4, 128, 384);
  QWeight kv_a = fp8_weight(code + 384 * 384, scale + 3 * 3 * 4, 576, 384);
  const Projection asked[] = {{{}, kv_a}, {{}, q_a}, {{}, index_k}};
  ProjectionGroup groups[3];
  ASSERT_EQ(group_projections(asked, groups), 1);
  EXPECT_EQ(groups[0].weight.rows, 960);
  EXPECT_EQ(groups[0].weight.data, q_a.data);
  ASSERT_EQ(groups[0].count, 3);
  EXPECT_EQ(groups[0].parts[0], &asked[1]);
  EXPECT_EQ(groups[0].parts[1], &asked[2]);
  EXPECT_EQ(groups[0].parts[2], &asked[0]);

  // Scales elsewhere, a hole, or a border inside a scale block: apart.
  QWeight strange = index_k;
  strange.scale += 1;
  const Projection apart[] = {{{}, q_a}, {{}, strange}};
  EXPECT_EQ(group_projections(apart, groups), 2);
  QWeight odd = fp8_weight(code, scale, 192, 384);
  QWeight behind = fp8_weight(code + 192 * 384, scale + 2 * 3 * 4, 128, 384);
  const Projection border[] = {{{}, odd}, {{}, behind}};
  EXPECT_EQ(group_projections(border, groups), 2);
}

TEST(OpsPlan, ContextLimitsCoverTheContextAndStayFew) {
  EXPECT_EQ(context_limit(1, 2048, 163840), 2048);
  EXPECT_EQ(context_limit(2048, 2048, 163840), 2048);
  EXPECT_EQ(context_limit(2049, 2048, 163840), 4096);
  EXPECT_EQ(context_limit(140000, 2048, 163840), 163840);
  EXPECT_EQ(context_limit(100, 2048, 512), 512);
  EXPECT_EQ(context_limit(257, 256, 3072), 1024);
  EXPECT_EQ(context_limit(5000, 0, 163840), 8192);
  for (int64_t c = 1; c <= 163840; c = c * 5 / 4 + 1) EXPECT_GE(context_limit(c, 2048, 163840), c);
}

TEST(OpsPlan, ScoreTilesFitTheBudget) {
  EXPECT_EQ(score_tile(512 << 20, 131072, 4096), 1024);
  EXPECT_EQ(score_tile(512 << 20, 4096, 100), 100);
  EXPECT_EQ(score_tile(1000, 131072, 4096), 1);  // never less than one row
}

TEST(OpsPlan, AttentionRunsFollowSpans) {
  using F = AttentionForm;
  const AttentionSpan spans[] = {{0, 1, 0, F::absorbed},
                                 {1, 3, 1, F::absorbed},
                                 {3, 40, 2, F::expanded},
                                 {40, 3000, 2, F::absorbed},
                                 {3000, 3001, 3, F::absorbed}};
  std::vector<AttentionRun> runs = attention_runs(spans, F::absorbed, false);
  ASSERT_EQ(runs.size(), 4u);
  EXPECT_EQ(runs[0].end, 3);
  EXPECT_TRUE(runs[0].decode);
  EXPECT_EQ(runs[1].begin, 40);
  EXPECT_EQ(runs[1].end, 40 + kPrefillTile);
  EXPECT_FALSE(runs[1].decode);
  EXPECT_EQ(runs[2].end, 3000);
  EXPECT_TRUE(runs[3].decode);
  for (const AttentionRun& r : attention_runs(spans, F::absorbed, true)) EXPECT_TRUE(r.decode);
  EXPECT_EQ(attention_runs(spans, F::expanded, false).size(), 1u);
}

TEST(OpsPlan, MemoryGrowsWithTheStepAndRefusesOtherDims) {
  Workload w;
  w.context = 32768;
  w.hidden = 7168;
  w.max_intermediate = 18432;
  w.expert_intermediate = 2048;
  w.heads = 128;
  w.nope = w.value = w.index_dim = 128;
  w.rope = 64;
  w.latent = 512;
  w.q_rank = 1536;
  w.index_heads = 64;
  w.index_topk = 2048;
  w.experts = 256;
  w.experts_per_token = 8;
  w.vocab = 129280;
  w.sequences = 64;
  w.step_tokens = 512;
  size_t few = cuda_ops_bytes(Numerics::fp8, w);
  w.step_tokens = 4096;
  size_t many = cuda_ops_bytes(Numerics::fp8, w);
  EXPECT_GT(many, few);
  EXPECT_LT(many, size_t{4} << 30);
  EXPECT_THROW(cuda_ops_bytes(Numerics::exact, w), Error);
  w.latent = 256;
  EXPECT_THROW(cuda_ops_bytes(Numerics::fp8, w), Error);
}

}  // namespace
}  // namespace fathom::cuda
