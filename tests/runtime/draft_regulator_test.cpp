// Drafts are made where they pay, by what was measured.
#include "runtime/draft_regulator.h"

#include <gtest/gtest.h>

namespace fathom {
namespace {

// Drafts of a usual step, for requests of that rate.
int usual(DraftRegulator& r, int sequences, double acceptance) {
  for (int i = 0;; ++i) {
    r.begin(sequences);
    // Of two neighbouring turns at most one is a probe.
    const int a = r.drafts(4, acceptance);
    r.begin(sequences);
    if (a == r.drafts(4, acceptance) || i > 2) return a;
  }
}

TEST(DraftRegulator, WeighsAcceptanceAgainstCost) {
  DraftRegulator r;
  for (int i = 0; i < 8; ++i) {
    r.observe(1, 0, 0.010);
    r.observe(1, 2, 0.016);  // 3 ms a draft: 0.3 tokens
    r.observe(16, 0, 0.020);
    r.observe(16, 16, 0.040);  // a draft costs as much as a token
  }
  EXPECT_NEAR(r.cost(1), 0.3, 1e-9);
  EXPECT_NEAR(r.cost(16), 1.0, 1e-9);
  EXPECT_EQ(usual(r, 1, 0.95), 4);
  EXPECT_EQ(usual(r, 1, 0.7), 3);  // 0.7, 0.49, 0.343 | 0.24
  EXPECT_EQ(usual(r, 1, 0.5), 1);
  EXPECT_EQ(usual(r, 1, 0.29), 0);
  EXPECT_EQ(usual(r, 16, 0.95), 0);
}

// What is off stays measured, and so does what is on.
TEST(DraftRegulator, ProbesWhatItDoesNotDo) {
  DraftRegulator r;
  int without = 0, with = 0;
  for (int i = 0; i < 200; ++i) {
    r.begin(1);
    without += r.drafts(2, 0.9) == 0;
    with += r.drafts(2, 0.05) == 1;
  }
  EXPECT_GE(without, 2);
  EXPECT_LE(without, 10);
  EXPECT_GE(with, 2);
  EXPECT_LE(with, 10);
}

TEST(DraftRegulator, FollowsAMachineThatChanges) {
  DraftRegulator r;
  for (int i = 0; i < 100; ++i) {
    r.observe(1, 0, 0.010);
    r.observe(1, 1, 0.021);
  }
  EXPECT_EQ(usual(r, 1, 0.9), 0);
  for (int i = 0; i < 100; ++i) {
    r.observe(1, 0, 0.010);
    r.observe(1, 1, 0.012);
  }
  EXPECT_GT(usual(r, 1, 0.9), 0);
}

TEST(AcceptanceRate, FollowsTheLastDrafts) {
  AcceptanceRate rate;
  for (int i = 0; i < 60; ++i) rate.add(false);
  EXPECT_LT(rate.value(), 0.05);
  for (int i = 0; i < 60; ++i) rate.add(true);
  EXPECT_GT(rate.value(), 0.95);
}

}  // namespace
}  // namespace fathom
