// Against closed forms and published values.
#include "eval/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <random>
#include <vector>

namespace fathom::eval {
namespace {

TEST(Statistics, QuantilesAreThoseOfTheTables) {
  EXPECT_NEAR(normal_quantile(0.975), 1.959963984540054, 1e-13);
  EXPECT_NEAR(normal_quantile(0.1), -1.2815515655446004, 1e-13);
  // One degree of freedom is Cauchy's, two have a closed form.
  for (double p : {0.6, 0.9, 0.975, 0.999, 0.2}) {
    EXPECT_NEAR(t_quantile(p, 1) / std::tan(std::numbers::pi * (p - 0.5)), 1, 1e-11) << p;
    EXPECT_NEAR(t_quantile(p, 2) / ((2 * p - 1) / std::sqrt(2 * p * (1 - p))), 1, 1e-11) << p;
  }
  // For even degrees of freedom the share within +-t is a finite sum (Abramowitz and Stegun,
  // 26.7.4).
  for (int freedom : {4, 10, 30}) {
    const double t = t_quantile(0.975, freedom);
    const double cosine = 1 / std::sqrt(1 + t * t / freedom);
    double term = 1, sum = 1;
    for (int k = 1; 2 * k <= freedom - 2; ++k)
      sum += term *= (2 * k - 1) / (2.0 * k) * cosine * cosine;
    EXPECT_NEAR(std::sqrt(1 - cosine * cosine) * sum, 0.95, 1e-13) << freedom;
  }
  EXPECT_NEAR(t_quantile(0.975, 1e7), normal_quantile(0.975), 1e-6);
}

TEST(Statistics, AMeanOfEqualWeightsHasTheTextbookError) {
  const std::vector<Sample> s = {{1, 1}, {2, 1}, {4, 1}, {7, 1}};
  const Estimate e = ratio_of(s);
  EXPECT_DOUBLE_EQ(e.value, 3.5);
  // Squares around 3.5: 6.25 + 2.25 + 0.25 + 12.25 = 21; error = sqrt(21 / 3 / 4).
  EXPECT_DOUBLE_EQ(e.standard_error, std::sqrt(1.75));
  EXPECT_NEAR(e.high - e.value, 3.182446305284264 * std::sqrt(1.75), 1e-10);
  EXPECT_DOUBLE_EQ(e.high - e.value, e.value - e.low);
  EXPECT_EQ(e.items, 4u);
}

TEST(Statistics, WeightsCountAsSoManyUnits) {
  // Nats over tokens: the ratio of sums, not the mean of ratios.
  const std::vector<Sample> s = {{30, 10}, {10, 10}, {8, 2}};
  const Estimate e = ratio_of(s);
  EXPECT_DOUBLE_EQ(e.value, 48.0 / 22);
  double squares = 0;
  for (const Sample& x : s) squares += std::pow(x.value - 48.0 / 22 * x.weight, 2);
  EXPECT_NEAR(e.standard_error, std::sqrt(1.5 * squares) / 22, 1e-15);
}

TEST(Statistics, ErrorsAreThoseOfRepeatedRuns) {
  std::mt19937 random(1);
  std::normal_distribution<double> noise;
  int inside = 0;
  constexpr int kRuns = 2000;
  for (int run = 0; run < kRuns; ++run) {
    std::vector<Sample> a, b;
    for (int i = 0; i < 12; ++i) {
      const double hard = 10 * noise(random);  // common to both: it must cancel
      a.push_back({hard + 0.3 + noise(random), 1});
      b.push_back({hard + noise(random), 1});
    }
    const Estimate e = paired_difference(a, b);
    EXPECT_LT(e.standard_error, 1);
    inside += e.low <= 0.3 && 0.3 <= e.high;
  }
  // 95 % of 2000, give or take four standard deviations (10 each).
  EXPECT_NEAR(inside, 1900, 40);
}

TEST(Statistics, ARunAgainstItselfDiffersByExactlyNothing) {
  const std::vector<Sample> s = {{0.1, 3}, {0.7, 4}, {1e-9, 5}};
  const Estimate e = paired_difference(s, s);
  EXPECT_EQ(e.value, 0);
  EXPECT_EQ(e.standard_error, 0);
  EXPECT_EQ(e.low, 0);
  EXPECT_EQ(e.high, 0);
}

TEST(Statistics, FewItemsHaveNoError) {
  EXPECT_EQ(ratio_of({}).items, 0u);
  const std::vector<Sample> one = {{3, 2}};
  const Estimate e = ratio_of(one);
  EXPECT_EQ(e.value, 1.5);
  EXPECT_EQ(e.standard_error, 0);
  EXPECT_EQ(e.low, e.high);
  EXPECT_EQ(share_of(0, 0).items, 0u);
  EXPECT_EQ(paired_share_difference(0, 0, 0).items, 0u);
}

TEST(Statistics, SharesHaveWilsonsInterval) {
  const double z = 1.959963984540054, zz = z * z;
  const Estimate none = share_of(0, 10);
  EXPECT_EQ(none.value, 0);
  EXPECT_NEAR(none.low, 0, 1e-15);
  EXPECT_NEAR(none.high, zz / (10 + zz), 1e-12);
  const Estimate all = share_of(10, 10);
  EXPECT_NEAR(all.low, 10 / (10 + zz), 1e-12);
  EXPECT_EQ(all.standard_error, 0);
  // 15 of 20: (p + zz/2n -+ z sqrt(p q / n + zz / 4nn)) / (1 + zz / n).
  const Estimate e = share_of(15, 20);
  EXPECT_NEAR(e.low, 0.5312986, 1e-6);
  EXPECT_NEAR(e.high, 0.8881383, 1e-6);
  EXPECT_NEAR(e.standard_error, std::sqrt(0.75 * 0.25 / 19), 1e-15);
}

TEST(Statistics, EqualSharesStillHaveAWidth) {
  const double z = 1.959963984540054;
  const Estimate equal = paired_share_difference(0, 0, 40);
  EXPECT_EQ(equal.value, 0);
  EXPECT_NEAR(equal.high, z / 42, 1e-12);
  EXPECT_NEAR(equal.low, -z / 42, 1e-12);
  // 6 and 2 of 100: (b - c) / (n + 2) -+ z sqrt(b + c + 1 - (b - c)^2 / (n + 2)) / (n + 2).
  const Estimate e = paired_share_difference(6, 2, 100);
  EXPECT_DOUBLE_EQ(e.value, 0.04);
  const double half = z * std::sqrt(9 - 16.0 / 102) / 102;
  EXPECT_NEAR(e.low, 4.0 / 102 - half, 1e-12);
  EXPECT_NEAR(e.high, 4.0 / 102 + half, 1e-12);
  // The standard error is that of the mean of 6 ones, 2 minus ones and 92 zeros.
  EXPECT_NEAR(e.standard_error, std::sqrt((8 - 100 * 0.04 * 0.04) / 99 / 100), 1e-15);
}

TEST(Statistics, PassAtKCountsSubsets) {
  EXPECT_DOUBLE_EQ(pass_at_k(5, 2, 1), 0.4);
  EXPECT_DOUBLE_EQ(pass_at_k(5, 2, 2), 0.7);  // 1 - 3/10
  EXPECT_DOUBLE_EQ(pass_at_k(10, 3, 4), 1 - 35.0 / 210);
  EXPECT_EQ(pass_at_k(5, 0, 5), 0);
  EXPECT_EQ(pass_at_k(5, 1, 5), 1);
  EXPECT_EQ(pass_at_k(5, 4, 2), 1);
  EXPECT_NEAR(pass_at_k(1000, 10, 1), 0.01, 1e-15);
}

}  // namespace
}  // namespace fathom::eval
