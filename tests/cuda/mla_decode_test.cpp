// Absorbed attention of a few tokens against float64 sums over the same rows: sparse and dense,
// both caches, every case twice. Then what holds between runs: batch invariance, and any scale
// format.
#include "attention_batch.h"
#include "kernels/cuda/attention/mla.h"
#include "kernels/cuda/attention/mla_decode_plan.h"

namespace fathom::cuda {
namespace {

constexpr int64_t kHeadStride = kNope + kRope;  // rope is the end of a query head
constexpr float kDecodeScale = 0.05f;           // scores of about one deviation

TEST(DecodePlan, FillsTheProcessorsAndStaysWithinItsBound) {
  for (int heads : {4, 16, 64, 100, 128})
    for (int64_t keys : {1, 64, 2048, 163840})
      for (bool invariant : {false, true})
        for (int tokens = 1; tokens < 300; ++tokens) {
          decode::Plan p = decode::plan({tokens, heads, keys, 132, invariant, keys != 2048});
          ASSERT_GE(p.splits, 1);
          ASSERT_LE(p.splits, decode::kMaxSplits);
          ASSERT_GE(p.group_tokens, 1);
          ASSERT_LE(decode::partial_bytes(p, tokens, heads),
                    decode::partial_bound(tokens, heads, 132));
        }
  EXPECT_GE(decode::plan({1, 128, 2048, 132, false}).splits, 16);
  EXPECT_EQ(decode::plan({128, 128, 2048, 132, false}).splits, 1);
}

TEST(DecodePlan, BatchInvariantCutIgnoresTheBatch) {
  for (int tokens : {1, 7, 200}) {
    EXPECT_EQ(decode::plan({tokens, 128, 2048, 132, true}).splits,
              decode::plan({1, 128, 2048, 132, true}).splits);
    EXPECT_EQ(decode::plan({tokens, 128, 100 * tokens, 132, true, true}).splits,
              decode::plan({1, 128, 50000, 132, true, true}).splits);
  }
}

class MlaDecodeTest : public GpuTest {
 protected:
  struct Queries {
    std::vector<Bf16> latent, full;
    Queries(int tokens, int heads)
        : latent(random_bf16(size_t(tokens) * heads * kLatent, 9)),
          full(random_bf16(size_t(tokens) * heads * kHeadStride, 10)) {}
  };

  // Tokens [first, first + tokens) of the batch, into poisoned memory with a guard behind it.
  std::vector<Bf16> run(const AttentionBatch& batch, const Queries& q, int heads, int first,
                        int tokens) {
    DeviceBatch device(batch);
    DeviceArray<Bf16> latent(q.latent), full(q.full);
    DeviceArray<Bf16> out(size_t(tokens) * heads * kLatent + kLatent);
    MlaParams p;
    p.q_latent = latent.data() + int64_t{first} * heads * kLatent;
    p.q_rope = full.data() + int64_t{first} * heads * kHeadStride + KernelDims::kNope;
    p.q_rope_token_stride = heads * kHeadStride;
    p.q_rope_head_stride = kHeadStride;
    p.cache = device.cache(batch);
    p.cache.sequence_of += first;
    p.cache.positions += first;
    p.topk = batch.topk;
    if (batch.topk > 0) p.picked = device.picked.data() + int64_t{first} * batch.topk;
    p.tokens = tokens;
    p.heads = heads;
    p.scale = kDecodeScale;
    p.out = out.data();
    for (const PrefillSpan& s : batch.spans) p.max_context = std::max(p.max_context, s.context);
    give_workspace(mla_decode_workspace(tokens, heads, p.topk, p.max_context, launch.sms,
                                        launch.batch_invariant));
    mla_decode(p, launch);
    synchronize();
    std::vector<Bf16> host = out.download();
    for (int i = 0; i < kLatent; ++i) {
      EXPECT_EQ(host.back().bits, 0xFFFF) << "written past the end";
      host.pop_back();
    }
    return host;
  }

  void check(const std::vector<SpanShape>& shapes, int heads, int topk, bool fp8, int missing = 0) {
    SCOPED_TRACE(::testing::Message() << heads << " heads, topk " << topk << (fp8 ? ", fp8" : ""));
    AttentionBatch batch(shapes, fp8, topk, missing);
    Queries q(batch.tokens, heads);
    std::vector<Bf16> first = run(batch, q, heads, 0, batch.tokens);
    compare(batch, heads, q, first);
    std::vector<Bf16> second = run(batch, q, heads, 0, batch.tokens);
    EXPECT_EQ(std::memcmp(first.data(), second.data(), first.size() * sizeof(Bf16)), 0);
  }

  // P is rounded to bf16, the result once more; scores are float32 sums of 576 products, whose
  // error moves every weight by that much.
  void compare(const AttentionBatch& batch, int heads, const Queries& q,
               const std::vector<Bf16>& out) {
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
          Bf16 x = c < kLatent ? q.latent[row * kLatent + c]
                               : q.full[row * kHeadStride + KernelDims::kNope + c - kLatent];
          double product = static_cast<double>(to_float(x)) * key[c];
          p[k] += product * kDecodeScale;
          absolute += std::fabs(product) * kDecodeScale;
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

TEST_F(MlaDecodeTest, DenseFromOneKeyOn) {
  for (int context : {1, 2, 63, 64, 65, 127, 128, 129, 5001})
    for (bool fp8 : {false, true}) check({{1, context}}, 64, 0, fp8);
}

TEST_F(MlaDecodeTest, DenseSequencesOfDifferentLength) {
  check({{1, 200}, {2, 1000}, {1, 1}, {1, 64}, {1, 20000}}, 128, 0, true);
  check({{1, 200}, {2, 1000}, {1, 1}, {1, 64}, {1, 20000}}, 128, 0, false);
}

TEST_F(MlaDecodeTest, AnyNumberOfHeads) {
  for (int heads : {1, 4, 16, 32, 64, 100, 128})
    check({{1, 300}, {2, 900}}, heads, 128, heads != 32);
}

TEST_F(MlaDecodeTest, AroundTopk) {
  for (int context : {63, 64, 65, 100}) check({{1, context}}, 16, 64, true);
  check({{1, 2047}, {1, 2048}, {1, 2049}, {2, 5000}, {1, 1}}, 128, 2048, true);
  check({{1, 2047}, {1, 2048}, {1, 2049}, {2, 5000}, {1, 1}}, 128, 2048, false);
}

TEST_F(MlaDecodeTest, TopkThatIsNoMultipleOfABlock) {
  check({{2, 3000}}, 4, 100, true);
  check({{2, 900}}, 64, 1, false);
}

TEST_F(MlaDecodeTest, FewerPickedThanTopk) { check({{3, 900}}, 64, 512, true, 77); }

// One split, several waves, and a number of tokens that fills no wave.
TEST_F(MlaDecodeTest, ManyTokens) {
  check({{40, 700}, {27, 300}}, 128, 256, true);
  check({{140, 400}}, 128, 256, true);
  check({{300, 400}}, 4, 64, false);
}

TEST_F(MlaDecodeTest, BatchInvariant) {
  launch.batch_invariant = true;
  for (int topk : {0, 2048}) {
    AttentionBatch batch({{1, 3000}, {70, 2500}, {1, 100}}, true, topk);
    Queries q(batch.tokens, 128);
    std::vector<Bf16> all = run(batch, q, 128, 0, batch.tokens);
    compare(batch, 128, q, all);
    for (int token : {0, 5, 71}) {
      std::vector<Bf16> one = run(batch, q, 128, token, 1);
      EXPECT_EQ(
          std::memcmp(one.data(), &all[size_t(token) * 128 * kLatent], one.size() * sizeof(Bf16)),
          0)
          << "token " << token << ", topk " << topk;
    }
  }
}

// Scales that are no powers of two take the slow way through float32; so do huge ones.
TEST_F(MlaDecodeTest, AnyScale) {
  AttentionBatch batch({{2, 600}}, true, 256);
  LatentRowFp8* rows = reinterpret_cast<LatentRowFp8*>(batch.cache.data());
  for (int p = 0; p < 600; ++p) {
    LatentRowFp8& row = rows[batch.row(0, p)];
    float* x = &batch.rows[batch.row(0, p) * AttentionBatch::kRow];
    for (int c = 0; c < kLatent; ++c) {
      float scale = row.scale[c / kFp8Block] * (p % 3 == 0 ? 1.37f : 1.0f);
      x[c] = round_bf16(fp8_to_float(row.code[c]) * scale);
    }
    if (p % 3 == 0)
      for (float& s : row.scale) s *= 1.37f;
  }
  Queries q(batch.tokens, 64);
  compare(batch, 64, q, run(batch, q, 64, 0, batch.tokens));
}

}  // namespace
}  // namespace fathom::cuda
