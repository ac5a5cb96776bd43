// The flat batch of a step, and the padding that brings it to a recorded size.
#include "model/step_batch.h"

#include <gtest/gtest.h>

namespace fathom {
namespace {

TEST(StepBatch, PadsWithTokensOfOneMoreSequence) {
  StepBatch batch(16, 4, 3);
  const FormPolicy forms{0, true};
  const int32_t ids[] = {7, 8};
  const int32_t pages[] = {4, 2};
  batch.add(std::span(ids).first(1), 70, pages, true, forms);
  batch.add(std::span(ids).last(1), 0, std::span(pages).first(1), true, forms);
  batch.pad(8, 9);
  StepInputs in = batch.inputs();
  EXPECT_EQ(in.batch.tokens, 8);
  EXPECT_EQ(in.live, 2);
  EXPECT_EQ(in.batch.sequences, 3);
  ASSERT_EQ(in.batch.spans.size(), 8u);
  for (int t = 2; t < 8; ++t) {
    EXPECT_EQ(in.batch.positions[t], 0);
    EXPECT_EQ(in.batch.sequence_of[t], 2);
    EXPECT_EQ(in.batch.cache_row(t, 0), 9 * kPageRows);
    const AttentionSpan& s = in.batch.spans[static_cast<size_t>(t)];
    EXPECT_EQ(s.begin, t);
    EXPECT_EQ(s.end, t + 1);
    EXPECT_EQ(s.form, AttentionForm::absorbed);
  }
  EXPECT_EQ(in.batch.cache_row(0, 70), 2 * kPageRows + 6);
}

TEST(StepBatch, PaddingToItsOwnSizeChangesNothingAndClearForgetsIt) {
  StepBatch batch(4, 2, 1);
  const int32_t id = 3, page = 0;
  batch.add({&id, 1}, 0, {&page, 1}, true, FormPolicy{0, true});
  batch.pad(1, 5);
  EXPECT_EQ(batch.inputs().batch.sequences, 1);
  batch.pad(4, 5);
  EXPECT_EQ(batch.inputs().live, 1);
  batch.clear();
  batch.add({&id, 1}, 0, {&page, 1}, true, FormPolicy{0, true});
  EXPECT_EQ(batch.inputs().live, 1);
  EXPECT_EQ(batch.tokens(), 1);
}

}  // namespace
}  // namespace fathom
