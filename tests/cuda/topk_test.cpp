// Top-k on the GPU against a sort by the rule itself: exact for every distribution of scores, every
// shape of the kernel, every length. What lies past a row's end would win if it were looked at.
#include "kernels/cuda/indexer/topk.h"

#include <fmt/format.h>

#include <cmath>
#include <numeric>

#include "kernels/cuda/indexer/topk_launch.h"
#include "numerics/selection.h"
#include "support.h"

namespace fathom::cuda {
namespace {

// All scores a kernel may meet, by name: what breaks selections are ties and narrow ranges.
enum class Values {
  normal,        // as a benchmark has them
  clustered,     // 2^17 neighbouring floats: one bin of any coarse histogram
  equal,         // everything is a tie
  zeros,         // most are +0 or -0, fewer than topk are not
  few_distinct,  // seven values, both infinities among them
  coarse,        // some dozens of values: bins of equal width hold hundreds of equal scores
  outlier,       // one score so far above the others that they share a bin of equal width
  rising,
  falling,
};
constexpr Values kAllValues[] = {Values::normal,  Values::clustered,    Values::equal,
                                 Values::zeros,   Values::few_distinct, Values::coarse,
                                 Values::outlier, Values::rising,       Values::falling};

std::vector<float> make_scores(Values values, int64_t n, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> v(static_cast<size_t>(n));
  const float few[] = {-INFINITY, -1.5f, -0.0f, 0.0f, 1e-30f, 2.0f, INFINITY};
  for (int64_t i = 0; i < n; ++i) {
    float& x = v[i];
    switch (values) {
      case Values::normal:
        x = normal(generator);
        break;
      case Values::clustered:
        x = float_of(0x40400000u + generator() % (1u << 17));
        break;
      case Values::equal:
        x = -3.25f;
        break;
      case Values::zeros:
        x = generator() % 100 == 0 ? normal(generator) : generator() % 2 ? 0.0f : -0.0f;
        break;
      case Values::few_distinct:
        x = few[generator() % 7];
        break;
      case Values::coarse:
        x = std::round(normal(generator) * 8.0f) / 8.0f;
        break;
      case Values::outlier:
        x = i == n / 3 ? 1e30f : normal(generator);
        break;
      case Values::rising:
        x = static_cast<float>(i) - static_cast<float>(n / 2);
        break;
      case Values::falling:
        x = static_cast<float>(n / 2) - static_cast<float>(i);
        break;
    }
  }
  return v;
}

std::vector<int32_t> select_on_host(const float* scores, int n, int topk) {
  std::vector<int32_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  if (n > topk) {
    std::nth_element(order.begin(), order.begin() + topk, order.end(),
                     [&](int32_t a, int32_t b) { return preferred(scores[a], a, scores[b], b); });
    order.resize(static_cast<size_t>(topk));
    std::sort(order.begin(), order.end());
  }
  order.resize(static_cast<size_t>(topk), -1);
  return order;
}

class TopkTest : public GpuTest {
 protected:
  // One row a length, scores of the given kind, NaN and +inf past the ends; run twice.
  void check(const TopkPlan* plan, Values values, const std::vector<int>& lengths, int topk) {
    std::vector<std::vector<float>> rows(lengths.size());
    parallel(static_cast<int64_t>(lengths.size()), [&](int64_t r) {
      rows[r] = make_scores(values, lengths[r], 17 + static_cast<uint32_t>(r));
    });
    check_rows(rows, topk, plan, fmt::format("values {}", static_cast<int>(values)));
  }

  void check_rows(const std::vector<std::vector<float>>& values, int topk,
                  const TopkPlan* plan = nullptr, const std::string& what = {}) {
    std::vector<int> lengths;
    for (const std::vector<float>& row : values) lengths.push_back(static_cast<int>(row.size()));
    const int rows = static_cast<int>(lengths.size());
    const int64_t context = *std::max_element(lengths.begin(), lengths.end());
    const int64_t stride = (context + 7) / 4 * 4;
    std::vector<float> scores(static_cast<size_t>(rows * stride), INFINITY);
    std::vector<int32_t> positions(lengths.size());
    parallel(rows, [&](int64_t r) {
      std::copy(values[r].begin(), values[r].end(), scores.begin() + r * stride);
      for (int64_t i = lengths[r]; i < stride; i += 2) scores[r * stride + i] = NAN;
      positions[r] = lengths[r] - 1;
    });
    DeviceArray<float> device_scores(scores);
    DeviceArray<int32_t> device_positions(positions);
    const size_t guard = 64, picks = static_cast<size_t>(rows) * topk;
    DeviceArray<int32_t> picked(picks + guard);
    fill_bytes(picked.data(), 0x55, picked.size() * sizeof(int32_t));
    TopkParams p;
    p.scores = device_scores.data();
    p.stride = stride;
    p.positions = device_positions.data();
    p.rows = rows;
    p.max_context = context;
    p.topk = topk;
    p.picked = picked.data();
    auto run = [&] {
      if (plan)
        index_topk_planned(p, *plan, launch);
      else
        index_topk(p, launch);
      synchronize();
      return picked.download();
    };
    std::vector<int32_t> got = run(), again = run();
    EXPECT_TRUE(got == again) << "not the same twice";
    for (size_t i = picks; i < got.size(); ++i)
      ASSERT_EQ(got[i], 0x55555555) << "written " << i - picks << " past the end";
    parallel(rows, [&](int64_t r) {
      std::vector<int32_t> want = select_on_host(&scores[r * stride], lengths[r], topk);
      for (int i = 0; i < topk; ++i)
        if (got[r * topk + i] != want[i]) {
          ADD_FAILURE() << what << ", row " << r << " of " << lengths[r] << ", topk " << topk
                        << ", plan " << (plan ? plan->threads : 0) << "x"
                        << (plan ? plan->vectors : 0) << "x" << (plan ? plan->cluster : 0)
                        << ": pick " << i << " is " << got[r * topk + i] << ", not " << want[i];
          return;
        }
    });
  }
};

// What the host promises a recorded graph: a plan holds every context it was asked for.
TEST(TopkPlanTest, HoldsTheContext) {
  for (int rows : {1, 2, 16, 64, 65, 128, 133, 4096})
    for (int64_t context = 1; context <= kMaxTopkContext; context = context * 5 / 4 + 1) {
      TopkPlan plan = topk_plan(rows, context, 132);
      EXPECT_TRUE(plan.streams() || plan.capacity() >= context) << rows << " rows, " << context;
      EXPECT_TRUE(plan.cluster == 1 || plan.cluster == 2 || plan.cluster == 4 || plan.cluster == 8);
    }
}

TEST_F(TopkTest, EveryShapeEveryDistribution) {
  for (TopkPlan shape : kTopkShapes)
    for (int cluster : {1, 2, 4, 8}) {
      TopkPlan plan = shape;
      plan.cluster = cluster;
      const int most = static_cast<int>(std::min<int64_t>(plan.capacity(), kMaxTopkContext));
      for (Values values : kAllValues)
        check(&plan, values, {most, most - 1, most / 2 + 3, 2049, 2048, 1, 130, 3 * most / 4 + 1},
              2048);
    }
}

TEST_F(TopkTest, StreamsEveryLength) {
  for (const TopkPlan& plan : kTopkStreams)
    for (Values values : kAllValues) {
      check(&plan, values, {163840, 131071, 8192, 8193, 8194, 8195, 2049, 2048, 3, 20000}, 2048);
      check(&plan, values, {65537, 33333, 100, 101, 102, 1}, 100);
      check(&plan, values, {65536, 30001, 6144, 6145, 6146, 6147, 8193, 2049, 2048, 3}, 2048);
      check(&plan, values, {30001, 1, 2}, 1);
    }
}

// A row whose sampled sectors hold none of its best scores, and one where they hold nothing else:
// the pivot is wrong both ways, the picks are not.
TEST_F(TopkTest, RowsUnlikeTheirSample) {
  const int n = 131072, sampled = n / 8 / 512 * 8;  // a sector of 8 in every `sampled` scores
  for (bool high : {false, true}) {
    std::vector<float> row = make_scores(Values::normal, n, 3);
    for (int i = 0; i < n; ++i)
      if ((i % sampled < 8) == high) row[i] += 100.0f;
    check_rows({row}, 2048, &kTopkStreams[0]);
    check_rows({row}, 2048, &kTopkStreams[1]);
  }
}

// Rows so short that a sanitizer can follow every access: each kernel, alone and in a cluster.
TEST_F(TopkTest, FewScores) {
  const std::vector<int> lengths = {40, 300, 4, 3};
  TopkPlan pair = kTopkShapes[0];
  pair.cluster = 2;
  for (Values values : {Values::normal, Values::equal}) {
    check(&kTopkShapes[0], values, lengths, 3);
    check(&pair, values, {static_cast<int>(kTopkShapes[0].capacity()) + 50}, 3);
    check(&kTopkStreams[0], values, lengths, 3);
  }
  check(&kTopkStreams[0], Values::normal, {9000}, 3);  // long enough for a sample of the row
}

TEST_F(TopkTest, OddCounts) {
  for (int topk : {1, 2, 31, 64, 100, 1000, 2047})
    for (Values values : kAllValues)
      check(nullptr, values, {topk, topk + 1, topk + 2, 4096, 8191, 20481, 1, 33000}, topk);
}

TEST_F(TopkTest, ManyRowsAsAPrefillChunk) {
  std::vector<int> lengths(600);
  for (size_t i = 0; i < lengths.size(); ++i) lengths[i] = 9000 - 600 + static_cast<int>(i);
  check(nullptr, Values::normal, lengths, 2048);
  check(nullptr, Values::zeros, lengths, 2048);
}

TEST_F(TopkTest, LongestContext) {
  for (Values values : kAllValues)
    check(nullptr, values, {static_cast<int>(kMaxTopkContext), 131072, 100001, 5}, 2048);
}

TEST_F(TopkTest, RefusesWhatItCannotDo) {
  TopkParams p;
  p.rows = 1;
  p.stride = p.max_context = kMaxTopkContext + 4;
  p.topk = 2048;
  EXPECT_ANY_THROW(index_topk(p, launch));
  p.stride = p.max_context = 4096;
  p.topk = 2049;
  EXPECT_ANY_THROW(index_topk(p, launch));
  p.topk = 2048;
  p.stride = 4097;
  EXPECT_ANY_THROW(index_topk(p, launch));
}

}  // namespace
}  // namespace fathom::cuda
