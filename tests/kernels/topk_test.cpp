// Exact top-k from given scores: hostile rows, and every tie resolved as numerics/selection.h says.
#include "kernels/cpu/topk.h"

#include "kernels/attention_fixture.h"
#include "numerics/selection.h"

namespace fathom {
namespace {

std::vector<int32_t> by_sorting(const std::vector<float>& score, int64_t k) {
  std::vector<int32_t> order(score.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return preferred(score[static_cast<size_t>(a)], a, score[static_cast<size_t>(b)], b);
  });
  order.resize(static_cast<size_t>(k));
  std::sort(order.begin(), order.end());
  return order;
}

std::vector<int32_t> by_kernel(const AttentionKernels& kernels, const std::vector<float>& score,
                               int64_t k) {
  const int64_t n = static_cast<int64_t>(score.size());
  std::vector<uint32_t> keys(score.size()), active(score.size());
  std::vector<int32_t> out(static_cast<size_t>(k) + 16, -7);
  select_topk(kernels, score.data(), n, k, keys.data(), active.data(), out.data());
  for (int64_t i = k; i < k + 16; ++i) EXPECT_EQ(out[static_cast<size_t>(i)], -7);  // no overrun
  out.resize(static_cast<size_t>(k));
  return out;
}

void check(const std::vector<float>& score, const std::string& what) {
  const int64_t n = static_cast<int64_t>(score.size());
  for (const OpsChoice& choice : fast_choices())
    for (int64_t k : {int64_t{1}, int64_t{2}, n / 3, n / 2, n - 2, n - 1})
      if (k >= 1 && k < n) {
        ASSERT_EQ(by_kernel(*choice.attention, score, k), by_sorting(score, k))
            << choice.name << " " << what << " n " << n << " k " << k;
      }
}

TEST(TopK, RandomRowsOfManyLengths) {
  Random random(1);
  for (int n : {2, 3, 15, 16, 17, 31, 33, 257, 1000, 4099}) {
    std::vector<float> score(static_cast<size_t>(n));
    for (float& s : score) s = random.normal();
    check(score, "normal");
    for (float& s : score) s = std::fabs(random.normal()) < 1 ? 0.0f : random.normal();
    check(score, "half of them zero");
    for (float& s : score) s = static_cast<float>(random.below(5) - 2);
    check(score, "five values");
    for (float& s : score) s = std::ldexp(random.normal(), random.below(200) - 100);
    check(score, "all magnitudes");
  }
}

TEST(TopK, EqualScoresGoToTheLowerPosition) {
  for (float value : {0.0f, -0.0f, 1.5f, -3.0f, INFINITY, -INFINITY, 1e-40f}) {
    std::vector<float> score(300, value);
    check(score, "all equal");
    score[299] = value > 0 ? 2 * value + 1 : 1;
    score[0] = -INFINITY;
    check(score, "all equal but two");
  }
}

TEST(TopK, ZerosOfBothSignsAreEqual) {
  Random random(2);
  std::vector<float> score(400);
  for (float& s : score) s = random.below(2) ? 0.0f : -0.0f;
  check(score, "zeros");
  for (size_t i = 0; i < score.size(); i += 7) score[i] = random.normal();
  check(score, "zeros at the cut");
  EXPECT_EQ(by_sorting({-0.0f, 0.0f, -1.0f}, 1), std::vector<int32_t>{0});
}

TEST(TopK, InfinitiesAndExtremes) {
  Random random(3);
  std::vector<float> score(200);
  for (float& s : score) {
    const float values[] = {INFINITY, -INFINITY, 3.4e38f, -3.4e38f, 1e-45f, -1e-45f, 0.0f, -0.0f};
    s = values[random.below(8)];
  }
  check(score, "extremes");
}

// A NaN is a broken model, not a broken program: k distinct ascending positions come out.
TEST(TopK, NanDoesNoHarm) {
  for (const OpsChoice& choice : fast_choices())
    for (int every : {1, 3}) {
      std::vector<float> score(100, 1.0f);
      for (size_t i = 0; i < score.size(); i += static_cast<size_t>(every))
        score[i] = i % 2 ? NAN : -NAN;
      std::vector<int32_t> out = by_kernel(*choice.attention, score, 40);
      for (size_t i = 0; i < out.size(); ++i) {
        ASSERT_GE(out[i], 0);
        ASSERT_LT(out[i], 100);
        if (i > 0) {
          ASSERT_GT(out[i], out[i - 1]);
        }
      }
    }
}

}  // namespace
}  // namespace fathom
