// Expanded attention of prefill chunks against float64 sums over keys and values that were formed
// from the same latent rows and rounded as the kernels do.
#include "kernels/cuda/attention/mha.h"

#include "attention_batch.h"
#include "base/error.h"
#include "kernels/cuda/attention/mha_plan.h"

namespace fathom::cuda {
namespace {

constexpr float kMhaScale = 0.1f;

TEST(MhaPlan, GroupsFitAndAreEven) {
  mha::WorkspacePlan all = mha::workspace_plan(100, 3000, true, 16);
  EXPECT_EQ(mha::fit_workspace(100, 3000, true, 16, all.bytes).group, 16);
  EXPECT_EQ(mha::fit_workspace(100, 3000, true, 16, all.bytes - 1).group, 8);
  mha::WorkspacePlan one = mha::workspace_plan(100, 3000, true, 1);
  EXPECT_EQ(mha::fit_workspace(100, 3000, true, 16, one.bytes).group, 1);
  EXPECT_EQ(mha::fit_workspace(100, 3000, true, 16, one.bytes - 1).group, 0);
  EXPECT_EQ(one.mask_words, 96);  // whole blocks of 128 keys
}

class MhaTest : public GpuTest {
 protected:
  void check(const std::vector<SpanShape>& shapes, int heads, int topk, bool fp8, int group) {
    SCOPED_TRACE(::testing::Message() << heads << " heads, topk " << topk << (fp8 ? ", fp8" : ""));
    AttentionBatch batch(shapes, fp8, topk);
    const size_t rows = static_cast<size_t>(batch.tokens) * heads;
    const size_t weights = static_cast<size_t>(heads) * kNope * kLatent;
    std::vector<Bf16> q = random_bf16(rows * kHead, 9);
    std::vector<Bf16> absorb = random_bf16(weights, 10, 0.06f),
                      up = random_bf16(weights, 11, 0.06f);
    DeviceBatch device(batch);
    DeviceArray<Bf16> dq(q), dabsorb(absorb), dup(up), out(rows * kValue + kValue);

    MhaParams p;
    p.q = dq.data();
    p.q_token_stride = int64_t{heads} * kHead;
    p.q_head_stride = kHead;
    p.cache = device.cache(batch);
    p.absorb = dabsorb.data();
    p.value_up = dup.data();
    p.picked = topk > 0 ? device.picked.data() : nullptr;
    p.topk = topk;
    p.tokens = batch.tokens;
    p.heads = heads;
    p.scale = kMhaScale;
    p.out = out.data();
    p.out_token_stride = int64_t{heads} * kValue;
    for (int at_once : {heads, group}) {
      size_t bytes = 0;
      for (const PrefillSpan& s : batch.spans)
        bytes = std::max(bytes, mha_prefill_workspace(s.end - s.begin, s.context, at_once));
      std::vector<Bf16> first;
      for (int run = 0; run < 2; ++run) {
        give_workspace(bytes);
        out.poison();
        mha_prefill(p, batch.spans, launch);
        synchronize();
        std::vector<Bf16> got = out.download();
        if (run == 0) first = got;
        EXPECT_EQ(std::memcmp(first.data(), got.data(), got.size() * sizeof(Bf16)), 0);
      }
      for (int i = 0; i < kValue; ++i)
        ASSERT_EQ(first[rows * kValue + i].bits, 0xFFFF) << "written past the end";
      compare(batch, heads, q, absorb, up, first);
    }
  }

  // Keys and values may be a bf16 step off (their float32 sums differ in order): an error of one
  // step in a fraction of the products, which the float64 side cannot know.
  void compare(const AttentionBatch& batch, int heads, const std::vector<Bf16>& q,
               const std::vector<Bf16>& absorb, const std::vector<Bf16>& up,
               const std::vector<Bf16>& out) {
    const int64_t rows = int64_t{batch.tokens} * heads, samples = std::min<int64_t>(rows, 32);
    std::vector<double> worst(static_cast<size_t>(samples));
    parallel(samples, [&](int64_t i) {
      const int64_t row = i == samples - 1 ? rows - 1 : i * (rows / samples);
      const int token = static_cast<int>(row / heads), head = static_cast<int>(row % heads);
      std::vector<float> key_weights(static_cast<size_t>(kNope) * kLatent),
          value_weights(static_cast<size_t>(kValue) * kLatent);
      for (int n = 0; n < kNope; ++n)
        for (int c = 0; c < kLatent; ++c) {
          key_weights[n * kLatent + c] =
              to_float(absorb[(int64_t{head} * kLatent + c) * kNope + n]);
          value_weights[n * kLatent + c] = to_float(up[(int64_t{head} * kValue + n) * kLatent + c]);
        }
      std::vector<int> keys = batch.keys_of(token);
      std::vector<double> p(keys.size()), values(keys.size() * kValue);
      double magnitude = 0;
      for (size_t k = 0; k < keys.size(); ++k) {
        const float* latent = &batch.rows[batch.row(token, keys[k]) * AttentionBatch::kRow];
        double absolute = 0;
        auto add = [&](int column, float key) {
          double product = static_cast<double>(to_float(q[row * kHead + column])) * key * kMhaScale;
          p[k] += product;
          absolute += std::fabs(product);
        };
        for (int n = 0; n < kNope; ++n) {
          float key = 0, value = 0;
          for (int c = 0; c < kLatent; ++c) {
            key += key_weights[n * kLatent + c] * latent[c];
            value += value_weights[n * kLatent + c] * latent[c];
          }
          add(n, round_bf16(key));
          values[k * kValue + n] = round_bf16(value);
        }
        for (int c = 0; c < kRope; ++c) add(kNope + c, latent[kLatent + c]);
        magnitude = std::max(magnitude, absolute);
      }
      softmax(p);
      for (int c = 0; c < kValue; ++c) {
        double sum = 0, absolute = 0;
        for (size_t k = 0; k < keys.size(); ++k) {
          sum += p[k] * values[k * kValue + c];
          absolute += std::fabs(p[k] * values[k * kValue + c]);
        }
        double bound = std::fabs(sum) * 0x1p-8 + absolute * (0x1p-7 + magnitude * 0x1p-12);
        double error = std::fabs(to_float(out[row * kValue + c]) - sum) / bound;
        worst[i] = std::max(worst[i], error == error ? error : INFINITY);
      }
    });
    EXPECT_LE(*std::max_element(worst.begin(), worst.end()), 1.0);
  }
};

TEST_F(MhaTest, CausalFromOneKeyOn) {
  for (int context : {1, 2, 127, 128, 129, 257}) check({{1, context}}, 2, 0, false, 1);
}

TEST_F(MhaTest, CausalChunksOfSeveralSequences) {
  check({{63, 200}, {1, 1}, {130, 700}, {129, 129}}, 16, 0, false, 5);
}

TEST_F(MhaTest, PickedPositions) {
  check({{100, 300}, {65, 70}, {3, 64}}, 4, 64, false, 3);
  check({{200, 3000}, {300, 2049}, {40, 2048}}, 12, 2048, false, 5);
}

TEST_F(MhaTest, FromAnFp8Cache) { check({{100, 3000}, {200, 2048}}, 8, 2048, true, 8); }

TEST_F(MhaTest, RefusesAWorkspaceWithoutRoomForOneHead) {
  MhaParams p;
  p.heads = 4;
  p.tokens = 10;
  p.scale = 1;
  PrefillSpan span{0, 10, 0, 1000};
  EXPECT_THROW(mha_prefill(p, {&span, 1}, launch), Error);
}

}  // namespace
}  // namespace fathom::cuda
