// Absorbed attention of prefill chunks against float64 sums over the same rows; every case twice,
// chunked in another way, and with the workspace too small for all sequences at once.
#include "kernels/cuda/attention/mla_prefill.h"

#include "attention_batch.h"
#include "base/error.h"
#include "kernels/cuda/attention/mla_prefill_plan.h"

namespace fathom::cuda {
namespace {

constexpr float kPrefillScale = 0.05f;  // scores of about one standard deviation

TEST(PrefillPlan, GroupsAdjacentSpansThatFit) {
  std::vector<PrefillSpan> spans = {
      {0, 1000, 0, 1000}, {1000, 2000, 1, 1000}, {2000, 3000, 2, 5000}, {3100, 4000, 3, 900}};
  prefill::PlanLimits limits;
  limits.workspace_rows = 5056 + 1024;  // not all three
  prefill::Pass pass = prefill::next_pass(spans, 0, limits);
  EXPECT_EQ(pass.last, 2u);
  EXPECT_EQ(pass.rows, 2048);
  EXPECT_FALSE(pass.decode);
  pass = prefill::next_pass(spans, 2, limits);
  EXPECT_EQ(pass.last, 3u) << "tokens 3000 to 3099 are not wanted";
  EXPECT_EQ(pass.rows, 5056);
  limits.max_spans = 1;
  EXPECT_EQ(prefill::next_pass(spans, 0, limits).last, 1u);
}

TEST(PrefillPlan, LeavesToDecodeWhatDoesNotPayOrFit) {
  std::vector<PrefillSpan> spans = {{0, 4, 0, 100000}, {4, 9, 1, 80000}, {9, 3000, 2, 100000}};
  prefill::PlanLimits limits;
  limits.workspace_rows = 1 << 20;
  prefill::Pass pass = prefill::next_pass(spans, 0, limits);
  EXPECT_TRUE(pass.decode);
  EXPECT_EQ(pass.last, 2u);
  EXPECT_FALSE(prefill::next_pass(spans, 2, limits).decode);
  limits.workspace_rows = 1000;
  EXPECT_TRUE(prefill::next_pass(spans, 2, limits).decode);
  limits.may_decode = false;
  EXPECT_EQ(prefill::next_pass(spans, 2, limits).rows, -1);
  limits.fp8 = false;
  EXPECT_EQ(prefill::next_pass(spans, 0, limits).last, 3u);
  limits.may_decode = true;  // a bf16 cache: nothing to dequantise, but few blocks fill no card
  EXPECT_TRUE(prefill::next_pass(spans, 0, limits).decode);
  EXPECT_FALSE(prefill::next_pass(spans, 2, limits).decode);
}

class MlaPrefillTest : public GpuTest {
 protected:
  void check(const std::vector<SpanShape>& shapes, int heads, int topk, bool fp8, int missing = 0) {
    SCOPED_TRACE(::testing::Message() << heads << " heads, topk " << topk << (fp8 ? ", fp8" : ""));
    AttentionBatch batch(shapes, fp8, topk, missing);
    // The rotary part as the engine has it: the end of each head of the whole query.
    const int64_t head_stride = KernelDims::kNope + kRope;
    const size_t rows = static_cast<size_t>(batch.tokens) * heads;
    std::vector<Bf16> q = random_bf16(rows * kLatent, 9),
                      full = random_bf16(rows * head_stride, 10);
    DeviceBatch device(batch);
    DeviceArray<Bf16> dq(q), dfull(full), out(rows * kLatent + kLatent);

    MlaParams p;
    p.q_latent = dq.data();
    p.q_rope = dfull.data() + KernelDims::kNope;
    p.q_rope_token_stride = heads * head_stride;
    p.q_rope_head_stride = head_stride;
    p.cache = device.cache(batch);
    p.picked = topk > 0 ? device.picked.data() : nullptr;
    p.topk = topk;
    p.tokens = batch.tokens;
    p.heads = heads;
    p.scale = kPrefillScale;
    p.out = out.data();
    size_t all = 0, largest = 0;
    for (const PrefillSpan& s : batch.spans) {
      all += mla_prefill_workspace(s.context, fp8);
      largest = std::max(largest, mla_prefill_workspace(s.context, fp8));
      p.max_context = std::max(p.max_context, s.context);
    }
    launch.batch_invariant = true;  // no mla_decode here
    give_workspace(all);
    mla_prefill(p, batch.spans, launch);
    synchronize();
    std::vector<Bf16> first = out.download();
    compare(batch, heads, q, full, first);
    for (int i = 0; i < kLatent; ++i)
      ASSERT_EQ(first[rows * kLatent + i].bits, 0xFFFF) << "written past the end";

    // Again, each span cut in two, in a workspace for one span at a time.
    std::vector<PrefillSpan> halves;
    for (const PrefillSpan& s : batch.spans) {
      int middle = (s.begin + s.end) / 2;
      if (middle > s.begin)
        halves.push_back({s.begin, middle, s.sequence, s.context - (s.end - middle)});
      halves.push_back({middle, s.end, s.sequence, s.context});
    }
    out.poison();
    give_workspace(largest);
    mla_prefill(p, halves, launch);
    synchronize();
    std::vector<Bf16> second = out.download();
    EXPECT_EQ(std::memcmp(first.data(), second.data(), first.size() * sizeof(Bf16)), 0);
  }

  // A sample of (token, head): P is rounded to bf16, the result once more; scores are float32 sums
  // of 576 products, whose error moves every weight by that much.
  void compare(const AttentionBatch& batch, int heads, const std::vector<Bf16>& q,
               const std::vector<Bf16>& full, const std::vector<Bf16>& out) {
    const int64_t rows = int64_t{batch.tokens} * heads, samples = std::min<int64_t>(rows, 64);
    std::vector<double> worst(static_cast<size_t>(samples));
    parallel(samples, [&](int64_t i) {
      const int64_t row = i == samples - 1 ? rows - 1 : i * (rows / samples);
      const int token = static_cast<int>(row / heads);
      std::vector<int> keys = batch.keys_of(token);
      std::vector<double> p(keys.size());
      double magnitude = 0;
      for (size_t k = 0; k < keys.size(); ++k) {
        const float* key = &batch.rows[batch.row(token, keys[k]) * AttentionBatch::kRow];
        double absolute = 0;
        for (int c = 0; c < kLatent + kRope; ++c) {
          Bf16 x = c < kLatent
                       ? q[row * kLatent + c]
                       : full[row * (KernelDims::kNope + kRope) + KernelDims::kNope + c - kLatent];
          double product = static_cast<double>(to_float(x)) * key[c];
          p[k] += product * kPrefillScale;
          absolute += std::fabs(product) * kPrefillScale;
        }
        magnitude = std::max(magnitude, absolute);
      }
      softmax(p);
      for (int c = 0; c < kLatent; ++c) {
        double sum = 0, absolute = 0;
        for (size_t k = 0; k < keys.size(); ++k) {
          double v = p[k] * batch.rows[batch.row(token, keys[k]) * AttentionBatch::kRow + c];
          sum += v;
          absolute += std::fabs(v);
        }
        double bound = std::fabs(sum) * 0x1p-8 + absolute * (0x1p-8 + magnitude * 0x1p-21);
        double error = std::fabs(to_float(out[row * kLatent + c]) - sum) / bound;
        worst[i] = std::max(worst[i], error == error ? error : INFINITY);
      }
    });
    EXPECT_LE(*std::max_element(worst.begin(), worst.end()), 1.0);
  }
};

TEST_F(MlaPrefillTest, DenseFromOneKeyOn) {
  for (int context : {1, 2, 63, 64, 65, 128, 129, 385}) check({{1, context}}, 64, 0, false);
}

TEST_F(MlaPrefillTest, DenseChunksOfSeveralSequences) {
  check({{63, 200}, {1, 1}, {130, 130}}, 128, 0, false);
  check({{63, 200}, {1, 1}, {130, 130}, {5, 4000}}, 128, 0, true);
}

TEST_F(MlaPrefillTest, AnyNumberOfHeads) {
  for (int heads : {1, 4, 16, 32, 64, 100}) check({{33, 300}}, heads, 128, heads % 8 == 0);
}

TEST_F(MlaPrefillTest, AroundTopk) {
  for (int context : {63, 64, 65, 100}) check({{40, context}}, 16, 64, true);
  check({{40, 2047}, {40, 2049}, {96, 5000}}, 128, 2048, false);
  check({{100, 3000}, {200, 2049}}, 128, 2048, true);
}

TEST_F(MlaPrefillTest, TopkThatIsNoMultipleOfABlock) {
  check({{50, 3000}}, 4, 100, true);
  check({{50, 900}}, 64, 1, false);
}

TEST_F(MlaPrefillTest, FewerPickedThanTopk) { check({{40, 900}}, 64, 512, false, 77); }

TEST_F(MlaPrefillTest, RefusesWhatDoesNotFit) {
  MlaParams p;
  p.heads = 64;
  p.tokens = 10;
  p.scale = 1;
  p.cache.fp8 = true;
  PrefillSpan span{0, 10, 0, 1000};
  launch.batch_invariant = true;
  EXPECT_THROW(mla_prefill(p, {&span, 1}, launch), Error);
  EXPECT_THROW(mla_prefill(p, launch), Error);
  span.end = 11;
  EXPECT_THROW(mla_prefill(p, {&span, 1}, launch), Error);
}

}  // namespace
}  // namespace fathom::cuda
