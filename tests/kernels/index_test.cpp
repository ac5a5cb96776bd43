// Cache entries, indexer queries, scores and picked sets.
#include <set>

#include "kernels/attention_fixture.h"
#include "numerics/selection.h"

namespace fathom {
namespace {

const Numerics kNumerics[] = {Numerics::exact, Numerics::bf16, Numerics::fp8};

KvFormat kv_of(Numerics n) {
  return n == Numerics::exact  ? KvFormat::f32
         : n == Numerics::bf16 ? KvFormat::bf16
                               : KvFormat::fp8;
}

struct Query {
  Memory q, weight;
  explicit Query(const Scene& s, Random& random)
      : q(s.numerics == Numerics::fp8 ? DType::u8 : activation_dtype(s.numerics),
          {s.batch.tokens, s.w.index_heads, K::kIndex}),
        weight(DType::f32, {s.batch.tokens, s.w.index_heads}) {
    random.fill(weight, 1.0f);
    if (s.numerics != Numerics::fp8) {
      random.fill(q, 1.0f);
      return;
    }
    q.tensor.dtype = DType::fp8_e4m3;
    for (std::byte& b : q.bytes) b = static_cast<std::byte>(float_to_fp8(30 * random.normal()));
  }
  double at(int t, int h, int i) const {
    int64_t e = t * q.tensor.row_stride + h * K::kIndex + i;
    if (q.tensor.dtype == DType::fp8_e4m3)
      return fp8_to_float(static_cast<const uint8_t*>(q.tensor.data)[e]);
    return q.at(t, h * K::kIndex + i);
  }
};

Memory scores_of_all(Ops& ops, const Scene& s, const Query& query) {
  Memory scores(DType::f32, {s.batch.tokens, s.w.context + 5});
  std::vector<int32_t> tokens(static_cast<size_t>(s.batch.tokens));
  std::iota(tokens.begin(), tokens.end(), 0);
  ops.index_scores(scores.tensor, tokens, query.q.tensor, query.weight.tensor, s.kv, s.batch);
  return scores;
}

Memory pick(Ops& ops, const Scene& s, const Query& query) {
  Memory picked(DType::i32, {s.batch.tokens, s.w.index_topk});
  ops.index_topk(picked.tensor, query.q.tensor, query.weight.tensor, s.kv, s.batch);
  return picked;
}

// Operands are exact in every format, so float32 sums are all that may differ.
TEST(IndexScores, MatchFloat64) {
  ThreadPool pool(2);
  for (const OpsChoice& choice : fast_choices())
    for (Numerics numerics : kNumerics)
      for (int heads : {1, 3, 8}) {
        Random random(static_cast<uint32_t>(heads));
        Scene s(numerics, kv_of(numerics), {{0, 70}, {127, 3}, {64, 1}}, 1, heads, 16);
        s.fill_cache(random);
        Query query(s, random);
        Memory scores = scores_of_all(*make(choice, numerics, s.w, pool), s, query);
        for (int t = 0; t < s.batch.tokens; t += 3)
          for (int p = 0; p <= s.positions[static_cast<size_t>(t)]; ++p) {
            std::vector<float> key(K::kIndex);
            double want = 0, size = 0;
            const double scale = read_index_row(s.kv, s.batch.cache_row(t, p), key.data());
            for (int h = 0; h < heads; ++h) {
              double dot = 0, abs = 0;
              for (int i = 0; i < K::kIndex; ++i) {
                double x = query.at(t, h, i) * key[static_cast<size_t>(i)];
                dot += x;
                abs += std::fabs(x);
              }
              want += std::max(dot, 0.0) * query.weight.at(t, h);
              size += abs * std::fabs(query.weight.at(t, h));
            }
            double bound = size * scale * (K::kIndex + heads + 2) * 0x1p-24;
            ASSERT_TRUE(std::fabs(scores.at(t, p) - want * scale) <= bound)
                << choice.name << " " << name_of(numerics) << " token " << t << " key " << p;
          }
        // What is beyond a row's own position is left alone.
        for (int64_t p = s.positions[0] + 1; p < scores.tensor.row_size(); ++p)
          ASSERT_TRUE(std::isnan(scores.at(0, p)));
      }
}

void expect_picks_follow_scores(const Scene& s, const Memory& scores, const Memory& picked,
                                const std::string& what) {
  for (int t = 0; t < s.batch.tokens; ++t) {
    const int n = s.positions[static_cast<size_t>(t)] + 1, k = s.w.index_topk;
    std::vector<int32_t> want(static_cast<size_t>(n));
    std::iota(want.begin(), want.end(), 0);
    std::stable_sort(want.begin(), want.end(), [&](int32_t a, int32_t b) {
      return n > k && preferred(scores.at(t, a), a, scores.at(t, b), b);
    });
    want.resize(static_cast<size_t>(std::min(n, k)));
    std::sort(want.begin(), want.end());
    want.resize(static_cast<size_t>(k), -1);
    const int32_t* row = picked.tensor.row<int32_t>(t);
    ASSERT_EQ(std::vector<int32_t>(row, row + k), want) << what << " token " << t;
  }
}

TEST(IndexTopK, PicksFollowTheScores) {
  ThreadPool pool(2);
  for (const OpsChoice& choice : fast_choices())
    for (Numerics numerics : kNumerics)
      for (int topk : {1, 32, 64, 65}) {
        Random random(static_cast<uint32_t>(topk));
        Scene s(numerics, kv_of(numerics), {{0, 70}, {200, 3}, {31, 1}, {63, 2}, {0, 1}}, 1, 2,
                topk);
        s.fill_cache(random);
        Query query(s, random);
        auto ops = make(choice, numerics, s.w, pool);
        Memory picked = pick(*ops, s, query);
        expect_picks_follow_scores(s, scores_of_all(*ops, s, query), picked, choice.name);
      }
}

// Weights of both signs over products that are never positive: zeros of both signs everywhere.
TEST(IndexTopK, AllZeroScoresPickTheFirstPositions) {
  ThreadPool pool(1);
  for (const OpsChoice& choice : fast_choices()) {
    Random random(1);
    Scene s(Numerics::bf16, KvFormat::bf16, {{0, 100}}, 1, 2, 16);
    s.fill_cache(random);
    Query query(s, random);
    for (int64_t i = 0; i < K::kIndex * 2; ++i)
      for (int t = 0; t < 100; ++t) query.q.set(t, i, 0.0f);
    Memory picked = pick(*make(choice, s.numerics, s.w, pool), s, query);
    for (int t = 16; t < 100; ++t)
      for (int i = 0; i < 16; ++i) ASSERT_EQ(picked.tensor.row<int32_t>(t)[i], i);
  }
}

TEST(IndexTopK, EqualForThreadsChunksAndBudgets) {
  for (const OpsChoice& choice : fast_choices())
    for (Numerics numerics : kNumerics) {
      Random random(3);
      Scene s(numerics, kv_of(numerics), {{0, 90}, {300, 1}, {90, 20}}, 1, 4, 48);
      s.fill_cache(random);
      Query query(s, random);
      ThreadPool one(1);
      auto ops = make(choice, numerics, s.w, one);
      Memory want = pick(*ops, s, query), scores = scores_of_all(*ops, s, query);
      for (int threads : {2, 3}) {
        ThreadPool pool(threads);
        // From one row at a time to everything at once.
        for (int64_t budget : {int64_t{4}, int64_t{20000}, int64_t{64} << 20}) {
          Workload w = s.w;
          w.index_budget = budget;
          auto other = make(choice, numerics, w, pool);
          ASSERT_EQ(want.bytes, pick(*other, s, query).bytes) << choice.name << " " << budget;
          if (budget == 4) {
            ASSERT_EQ(scores.bytes, scores_of_all(*other, s, query).bytes);
          }
        }
        auto other = make(choice, numerics, s.w, pool);
        Memory got(DType::i32, {s.batch.tokens, s.w.index_topk});
        for (AttentionSpan span : s.spans)
          for (int b = span.begin; b < span.end; b += 13) {
            AttentionSpan piece{b, std::min(span.end, b + 13), span.sequence, span.form};
            other->index_topk(got.tensor, query.q.tensor, query.weight.tensor, s.kv,
                              s.part_of(piece));
          }
        ASSERT_EQ(want.bytes, got.bytes) << choice.name;
      }
    }
}

// ---------------------------------------------------------------------------- entries and queries

// Bytes written by the fast ops and by the reference: the same arithmetic but for the order of
// float64 sums, which does not show after rounding to float32 on these rows.
TEST(CacheEntries, SameBytesAsTheReference) {
  ThreadPool pool(2);
  for (const OpsChoice& choice : fast_choices())
    for (Numerics numerics : kNumerics)
      for (KvFormat format : {KvFormat::f32, KvFormat::bf16, KvFormat::fp8}) {
        Random random(5);
        Scene s(numerics, format, {{0, 67}, {129, 2}}, 2, 3, 16);
        DType act = activation_dtype(numerics);
        Memory kv_a(act, {s.batch.tokens, K::kLatent + K::kRope});
        Memory k(act, {s.batch.tokens, K::kIndex});
        random.fill(kv_a, 2.0f);
        random.fill(k, 2.0f);
        for (int i = 0; i < K::kIndex; ++i) k.set(3, i, 1.0f);  // no variance
        std::vector<float> gain(K::kLatent), weight(K::kIndex), bias(K::kIndex);
        for (float& g : gain) g = 1 + 0.1f * random.normal();
        for (float& g : weight) g = 1 + 0.1f * random.normal();
        for (float& g : bias) g = 0.1f * random.normal();
        auto write = [&](Ops& ops) {
          std::fill(s.latent.begin(), s.latent.end(), std::byte{0xFF});
          std::fill(s.index.begin(), s.index.end(), std::byte{0xFF});
          ops.append_latent(s.kv, kv_a.tensor, gain.data(), 1e-6f, s.batch, s.rope);
          ops.append_index_key(s.kv, k.tensor, {weight.data(), bias.data()}, s.batch, s.rope);
          return std::pair(s.latent, s.index);
        };
        auto want = write(*make({"reference", nullptr, nullptr}, numerics, s.w, pool));
        auto got = write(*make(choice, numerics, s.w, pool));
        EXPECT_EQ(want.first, got.first) << choice.name << " " << name_of(numerics);
        EXPECT_EQ(want.second, got.second) << choice.name << " " << name_of(numerics);
      }
}

// The entries against their definition, in float64, written out here.
TEST(CacheEntries, LatentIsNormedAndRotatedInPairs) {
  ThreadPool pool(1);
  for (const OpsChoice& choice : fast_choices()) {
    Random random(6);
    Scene s(Numerics::exact, KvFormat::f32, {{60, 8}}, 1, 1, 16);
    Memory kv_a(DType::f32, {8, K::kLatent + K::kRope});
    random.fill(kv_a, 3.0f);
    std::vector<float> gain(K::kLatent, 0.5f);
    make(choice, s.numerics, s.w, pool)
        ->append_latent(s.kv, kv_a.tensor, gain.data(), 1e-6f, s.batch, s.rope);
    std::vector<float> row(K::kLatent + K::kRope);
    for (int t = 0; t < 8; ++t) {
      read_latent_row(s.kv, s.batch.cache_row(t, 60 + t), row.data());
      double square = 0;
      for (int i = 0; i < K::kLatent; ++i) square += kv_a.at(t, i) * double{kv_a.at(t, i)};
      for (int i = 0; i < K::kLatent; ++i)
        EXPECT_NEAR(row[static_cast<size_t>(i)],
                    0.5 * kv_a.at(t, i) / std::sqrt(square / K::kLatent + 1e-6), 1e-6);
      for (int i = 0; i < K::kRope / 2; ++i) {
        double angle = (60 + t) * std::pow(10000.0, -2.0 * i / K::kRope);
        double a = kv_a.at(t, K::kLatent + 2 * i), b = kv_a.at(t, K::kLatent + 2 * i + 1);
        EXPECT_NEAR(row[static_cast<size_t>(K::kLatent + 2 * i)],
                    a * std::cos(angle) - b * std::sin(angle), 1e-4);
        EXPECT_NEAR(row[static_cast<size_t>(K::kLatent + 2 * i + 1)],
                    a * std::sin(angle) + b * std::cos(angle), 1e-4);
      }
    }
  }
}

TEST(Queries, SameBytesAsTheReference) {
  ThreadPool pool(3);
  for (const OpsChoice& choice : fast_choices())
    for (Numerics numerics : kNumerics) {
      Random random(8);
      Scene s(numerics, kv_of(numerics), {{0, 33}, {129, 2}}, 3, 5, 16);
      DType act = activation_dtype(numerics);
      Memory q(act, {s.batch.tokens, 3, K::kNope + K::kRope});
      Memory index_q(act, {s.batch.tokens, 5, K::kIndex});
      Memory weight(DType::f32, {s.batch.tokens, 5});
      random.fill(q, 1.0f);
      random.fill(index_q, 1.0f);
      random.fill(weight, 1.0f);
      auto run = [&](Ops& ops) {
        Memory rotated = q, weights = weight;
        rotated.tensor.data = rotated.bytes.data();
        weights.tensor.data = weights.bytes.data();
        Memory out(numerics == Numerics::fp8 ? DType::fp8_e4m3 : act,
                   {s.batch.tokens, 5, K::kIndex});
        ops.rope_query(rotated.tensor, s.batch, s.rope);
        ops.index_query(out.tensor, weights.tensor, index_q.tensor, s.batch, s.rope);
        return std::tuple(rotated.bytes, out.bytes, weights.bytes);
      };
      EXPECT_EQ(run(*make({"reference", nullptr, nullptr}, numerics, s.w, pool)),
                run(*make(choice, numerics, s.w, pool)))
          << choice.name << " " << name_of(numerics);
    }
}

}  // namespace
}  // namespace fathom
