#include "runtime/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>

namespace fathom {
namespace {

using testing::HasSubstr;

SamplingParams with(float temperature, int top_k = 0, float top_p = 1, float min_p = 0) {
  return {temperature, top_k, top_p, min_p, 42};
}

// How often each token comes in n draws at successive positions.
std::vector<int> counts(const std::vector<float>& logits, const SamplingParams& params, int n) {
  Sampler sampler(static_cast<int64_t>(logits.size()));
  std::vector<int> count(logits.size(), 0);
  for (int i = 0; i < n; ++i) ++count[sampler.sample(logits, params, i).value()];
  return count;
}

// Pearson's statistic against the probabilities; tokens of probability 0 must not come at all.
double chi_square(const std::vector<int>& count, const std::vector<double>& probability) {
  double n = 0, chi = 0;
  for (int c : count) n += c;
  for (size_t i = 0; i < count.size(); ++i) {
    if (probability[i] == 0) {
      EXPECT_EQ(count[i], 0) << "token " << i << " is filtered";
      continue;
    }
    double expected = n * probability[i];
    chi += (count[i] - expected) * (count[i] - expected) / expected;
  }
  return chi;
}

std::vector<double> softmax(const std::vector<float>& logits, double temperature) {
  std::vector<double> p;
  double sum = 0;
  for (float l : logits) sum += p.emplace_back(std::exp(l / temperature));
  for (double& x : p) x /= sum;
  return p;
}

std::vector<double> only(std::vector<double> p, std::initializer_list<int> kept) {
  double sum = 0;
  for (int i : kept) sum += p[i];
  for (size_t i = 0; i < p.size(); ++i)
    p[i] = std::find(kept.begin(), kept.end(), static_cast<int>(i)) == kept.end() ? 0 : p[i] / sum;
  return p;
}

const std::vector<float> kLogits = {1.0f, 3.0f, 2.0f, -1.0f, 2.5f, 0.0f, 2.9f, -4.0f};
constexpr int kDraws = 40000;
// 99.99 % point of chi-square with 7 degrees of freedom; with fewer it is the safer.
constexpr double kChi = 29.9;

TEST(SamplingRule, RandomBitsAreTheKnownPhilox) {
  // Random123's known answers for philox4x32-10.
  EXPECT_EQ(random_bits(0, 0), 0xe169c58d6627e8d5u);
  EXPECT_NE(random_bits(1, 0), random_bits(0, 0));
  EXPECT_NE(random_bits(0, 1), random_bits(0, 0));
  EXPECT_NE(random_bits(uint64_t{1} << 32, 0), random_bits(0, 0));
}

TEST(SamplingRule, WeightsFollowTheExponential) {
  const double unit = std::exp2(kWeightBits);
  EXPECT_EQ(sample_weight(5.0f, 5.0f, 1.7f), uint64_t{1} << kWeightBits);
  for (double x = 0; x > -27; x -= 0.0137) {
    double want = std::exp(static_cast<double>(static_cast<float>(x))) * unit;
    double got = static_cast<double>(sample_weight(static_cast<float>(x), 0.0f, 1.0f));
    EXPECT_NEAR(got, want, want * 4e-7 + 1) << x;
  }
  EXPECT_EQ(sample_weight(-28.0f, 0.0f, 1.0f), 0u);
  EXPECT_EQ(sample_weight(-INFINITY, 0.0f, 1.0f), 0u);
  EXPECT_EQ(sample_weight(-INFINITY, 0.0f, INFINITY), 0u);
  EXPECT_EQ(sample_weight(-3e38f, 3e38f, 1e-30f), 0u);
}

TEST(Sampler, GreedyTakesTheLowerIdOnTies) {
  Sampler sampler(4);
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 7, 7, 3}, with(0), 0).value(), 1);
  EXPECT_EQ(sampler.sample(std::vector<float>{-0.0f, 0.0f, 0.0f, -1}, with(0), 0).value(), 0);
  EXPECT_EQ(sampler.sample(std::vector<float>{-INFINITY, -5, -5, -6}, with(0), 0).value(), 1);
}

TEST(Sampler, VanishingTemperatureIsGreedy) {
  Sampler sampler(3);
  for (float t : {1e-30f, 1e-40f, 1e-6f})
    for (int pos = 0; pos < 20; ++pos)
      EXPECT_EQ(sampler.sample(std::vector<float>{1, 2, 1.5f}, with(t), pos).value(), 1);
}

TEST(Sampler, DrawsTheSoftmax) {
  for (float t : {0.5f, 1.0f, 2.0f})
    EXPECT_LT(chi_square(counts(kLogits, with(t), kDraws), softmax(kLogits, t)), kChi) << t;
}

TEST(Sampler, TopKKeepsTheKBest) {
  EXPECT_LT(chi_square(counts(kLogits, with(1, 3), kDraws), only(softmax(kLogits, 1), {1, 6, 4})),
            kChi);
  EXPECT_LT(chi_square(counts(kLogits, with(1, 1000), kDraws), softmax(kLogits, 1)), kChi);
}

TEST(Sampler, TopKTiesGoToTheLowerId) {
  std::vector<int> c = counts({1, 2, 2, 2, 0}, with(1, 2), 2000);
  EXPECT_GT(c[1], 800);
  EXPECT_GT(c[2], 800);
  EXPECT_EQ(c[1] + c[2], 2000);
}

TEST(Sampler, TopPKeepsTheShortestPrefixThatReachesIt) {
  // Softmax of kLogits: 1: .324, 6: .293, 4: .197, 2: .119, ...
  EXPECT_LT(
      chi_square(counts(kLogits, with(1, 0, 0.5f), kDraws), only(softmax(kLogits, 1), {1, 6})),
      kChi);
  EXPECT_LT(
      chi_square(counts(kLogits, with(1, 0, 0.65f), kDraws), only(softmax(kLogits, 1), {1, 6, 4})),
      kChi);
  EXPECT_EQ(counts(kLogits, with(1, 0, 1e-20f), 100)[1], 100);
}

TEST(Sampler, TopPCountsWithinWhatTopKLeft) {
  // Of the three best, .324 + .293 of .814 are .758: 0.75 needs two of them.
  EXPECT_LT(
      chi_square(counts(kLogits, with(1, 3, 0.75f), kDraws), only(softmax(kLogits, 1), {1, 6})),
      kChi);
}

TEST(Sampler, MinPIsRelativeToTheBest) {
  // e^-0.5 = 0.607 (id 4), e^-1 = 0.368 (id 2)
  EXPECT_LT(chi_square(counts(kLogits, with(1, 0, 1, 0.5f), kDraws),
                       only(softmax(kLogits, 1), {1, 6, 4})),
            kChi);
  EXPECT_EQ(counts(kLogits, with(1, 0, 1, 1.0f), 100)[1], 100);
}

TEST(Sampler, TemperatureComesBeforeTopP) {
  // At temperature 4 the two best have less than half of the whole.
  std::vector<int> c = counts(kLogits, with(4, 0, 0.5f), 5000);
  EXPECT_GT(c[4], 0);
}

TEST(Sampler, FlatVocabulariesOfAnySizeWork) {
  for (int n : {1, 2, 63, 64, 65, 4096, 129280}) {
    std::vector<float> flat(n, 0.5f);
    Sampler sampler(n);
    for (float p : {0.3f, 0.9999f, 1.0f}) {
      int32_t id = sampler.sample(flat, with(1, 0, p), 5).value();
      EXPECT_GE(id, 0);
      EXPECT_LT(id, p == 0.3f ? std::max(1, static_cast<int>(0.3001 * n) + 1) : n);
    }
  }
}

TEST(Sampler, DependsOnSeedAndPositionAlone) {
  std::vector<float> logits(500);
  std::mt19937 random(1);
  for (float& l : logits) l = static_cast<float>(random() % 1000) / 200;
  Sampler a(500), b(500);
  std::map<int32_t, int> seen;
  for (int pos = 0; pos < 50; ++pos) {
    // b has drawn other things in between; it makes no difference.
    (void)b.sample(kLogits, with(1), pos + 7);
    int32_t id = a.sample(logits, with(1), pos).value();
    EXPECT_EQ(id, b.sample(logits, with(1), pos).value());
    ++seen[id];
  }
  EXPECT_GT(seen.size(), 20u);
  SamplingParams other = with(1);
  other.seed = 43;
  int differ = 0;
  for (int pos = 0; pos < 50; ++pos)
    differ += a.sample(logits, with(1), pos).value() != a.sample(logits, other, pos).value();
  EXPECT_GT(differ, 40);
}

TEST(Sampler, BrokenLogitsFailTheRequest) {
  Sampler sampler(3);
  for (float t : {0.0f, 1.0f}) {
    auto fails_with = [&](std::vector<float> logits) {
      Result<int32_t> r = sampler.sample(logits, with(t), 0);
      EXPECT_FALSE(r.ok());
      return r.ok() ? std::string() : r.failure().message;
    };
    EXPECT_THAT(fails_with({1, NAN, 2}), HasSubstr("token 1 is nan"));
    EXPECT_THAT(fails_with({1, 2, INFINITY}), HasSubstr("token 2 is inf"));
    EXPECT_THAT(fails_with({-INFINITY, -INFINITY, -INFINITY}), HasSubstr("every logit is -inf"));
  }
}

TEST(Sampler, ParametersOutOfRangeAreNamed) {
  auto message = [](SamplingParams p) {
    Result<SamplingParams> r = checked(p);
    return r.ok() ? std::string("fine") : r.failure().message;
  };
  EXPECT_EQ(message(SamplingParams{}), "fine");
  EXPECT_EQ(message(with(0, 1, 1, 1)), "fine");
  EXPECT_THAT(message(with(-1)), HasSubstr("temperature is -1"));
  EXPECT_THAT(message(with(NAN)), HasSubstr("temperature is nan"));
  EXPECT_THAT(message(with(1, -1)), HasSubstr("top_k is -1"));
  EXPECT_THAT(message(with(1, 0, 0)), HasSubstr("top_p is 0"));
  EXPECT_THAT(message(with(1, 0, 1.5f)), HasSubstr("top_p is 1.5"));
  EXPECT_THAT(message(with(1, 0, 1, -0.1f)), HasSubstr("min_p is -0.1"));
}

}  // namespace
}  // namespace fathom
