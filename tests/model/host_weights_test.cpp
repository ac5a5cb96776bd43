#include "model/host_weights.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "model/checkpoint.h"

namespace fathom {
namespace {

const std::string kTinyFolder = std::string(FATHOM_SOURCE_DIR) + "/tests/data/tiny";

std::vector<const QWeight*> all_matrices(const Weights& w) {
  std::vector<const QWeight*> all = {&w.embed, &w.head, &w.mtp->combine};
  auto mlp = [&](const MlpWeights& m) { all.insert(all.end(), {&m.gate, &m.up, &m.down}); };
  auto layer = [&](const LayerWeights& l) {
    const AttentionWeights& a = l.attention;
    all.insert(all.end(), {&a.q_a, &a.q_b, &a.kv_a, &a.kv_up.kv_b, &a.o, &a.indexer.q_b,
                           &a.indexer.k, &a.indexer.head_weight, &l.moe.gate});
    mlp(l.mlp);
    mlp(l.moe.shared);
    for (const MlpWeights& expert : l.moe.experts) mlp(expert);
  };
  for (const LayerWeights& l : w.layers) layer(l);
  layer(w.mtp->block);
  return all;
}

template <class T>
bool same_values(const T* a, const T* b, int64_t n) {
  return std::memcmp(a, b, static_cast<size_t>(n) * sizeof(T)) == 0;
}

// Codes and scales of every row, whatever lies between rows.
void expect_equal_matrix(const QWeight& a, const QWeight& b) {
  ASSERT_EQ(a.rows, b.rows);
  ASSERT_EQ(a.cols, b.cols);
  ASSERT_EQ(a.dtype, b.dtype);
  EXPECT_EQ(a.pow2_scale, b.pow2_scale);
  EXPECT_EQ(a.scale == nullptr, b.scale == nullptr);
  const int64_t size = static_cast<int64_t>(size_of(a.dtype));
  for (int64_t r = 0; r < a.rows; ++r) {
    const QWeight x = a.slice_rows(r, r + 1), y = b.slice_rows(r, r + 1);
    ASSERT_TRUE(same_values(static_cast<const char*>(x.data), static_cast<const char*>(y.data),
                            a.cols * size))
        << "row " << r;
    if (!a.scale) continue;
    ASSERT_TRUE(same_values(x.scale, y.scale, (a.cols + kFp8Block - 1) / kFp8Block)) << "row " << r;
  }
}

// Each rank of a layout has parts of matrices: rows from the middle of a block on, and columns.
TEST(HostWeights, AreTheSameMatricesWithoutGaps) {
  CheckpointOptions options;
  options.layout = RankLayout{2, 1, 0};
  const auto checkpoint = Checkpoint::load(kTinyFolder, options);
  for (int rank = 0; rank < 2; ++rank) {
    const Weights& mapped = checkpoint->weights(rank);
    Weights copied = mapped;
    const Buffer memory = copy_matrices(copied);
    const auto before = all_matrices(mapped), after = all_matrices(copied);
    ASSERT_EQ(before.size(), after.size());
    int parts = 0;
    for (size_t i = 0; i < before.size(); ++i) {
      SCOPED_TRACE(i);
      const QWeight &a = *before[i], &b = *after[i];
      ASSERT_EQ(a.empty(), b.empty());
      if (a.empty()) continue;
      expect_equal_matrix(a, b);
      parts += a.stride() != a.cols;
      EXPECT_EQ(b.stride(), b.cols);
      const auto* place = static_cast<const std::byte*>(b.data);
      EXPECT_TRUE(memory.data() <= place && place < memory.data() + memory.size());
      EXPECT_EQ(reinterpret_cast<uintptr_t>(place) % 64, 0u);
    }
    EXPECT_GT(parts, 0) << "no matrix is cut by columns: the copy of gaps is not tested";
    EXPECT_EQ(copied.norm, mapped.norm);
  }
}

TEST(HostWeights, ACopyTakesLittleOfTheMemory) {
  const auto checkpoint = Checkpoint::load(kTinyFolder);
  Weights copied = checkpoint->weights();
  const int64_t bytes = static_cast<int64_t>(copy_matrices(copied).size());
  EXPECT_TRUE(copy_pays(checkpoint->weights(), 8 * bytes));
  EXPECT_FALSE(copy_pays(checkpoint->weights(), 8 * bytes - 1));
  EXPECT_FALSE(copy_pays(checkpoint->weights(), 0));
  // A gigabyte and more is not copied while a user waits.
  copied.embed.rows = (int64_t{1} << 30) / copied.embed.cols;
  EXPECT_FALSE(copy_pays(copied, int64_t{1} << 40));
}

TEST(HostWeights, WordsAreAddedToWhatStays) {
  const auto checkpoint = Checkpoint::load(kTinyFolder);
  Weights turned = checkpoint->weights();
  ThreadPool pool(2);
  const Buffer memory = add_words(turned, pool);
  const auto before = all_matrices(checkpoint->weights()), after = all_matrices(turned);
  ASSERT_EQ(before.size(), after.size());
  int with = 0;
  for (size_t i = 0; i < before.size(); ++i) {
    SCOPED_TRACE(i);
    EXPECT_EQ(after[i]->data, before[i]->data);
    EXPECT_EQ(after[i]->scale, before[i]->scale);
    if (after[i]->words == nullptr) continue;
    ++with;
    const auto* place = reinterpret_cast<const std::byte*>(after[i]->words);
    EXPECT_TRUE(memory.data() <= place && place < memory.data() + memory.size());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(place) % 64, 0u);
  }
  EXPECT_GT(with, 0);
  EXPECT_EQ(turned.embed.words, nullptr);
  EXPECT_TRUE(words_pay(checkpoint->weights(), int64_t{1} << 40));
  EXPECT_FALSE(words_pay(checkpoint->weights(), static_cast<int64_t>(memory.size())));
  // Only what memory is left limits them, not their size.
  turned.head.rows = (int64_t{4} << 30) / turned.head.cols;
  EXPECT_TRUE(words_pay(turned, int64_t{1} << 40));
}

}  // namespace
}  // namespace fathom
