// Sampling on the GPU against the host's Sampler: the same token for the same logits, always.
#include "kernels/cuda/sample/sample.h"

#include "runtime/sampler.h"
#include "support.h"

namespace fathom::cuda {
namespace {

class SampleTest : public GpuTest {
 protected:
  // Row r has logits[r * stride ..] and rows[r]; every token must be the host's.
  void check(const std::vector<float>& logits, int64_t vocab, const std::vector<SampleRow>& rows,
             const char* what) {
    const int n = static_cast<int>(rows.size());
    const int64_t stride = static_cast<int64_t>(logits.size()) / n;
    DeviceArray<float> in(logits);
    DeviceArray<SampleRow> device_rows(rows);
    DeviceArray<int32_t> ids(rows.size() + 1);
    std::vector<int32_t> first;
    for (int turn = 0; turn < 2; ++turn) {
      fill_bytes(ids.data(), 0x55, ids.size() * sizeof(int32_t));
      sample_tokens(in.data(), stride, n, vocab, device_rows.data(), ids.data(), launch);
      synchronize();
      std::vector<int32_t> got = ids.download();
      EXPECT_EQ(got.back(), 0x55555555);
      if (turn == 0)
        first = got;
      else
        EXPECT_EQ(got, first);
    }
    parallel(n, [&](int64_t r) {
      Sampler sampler(vocab);
      Result<int32_t> want = sampler.sample({&logits[r * stride], static_cast<size_t>(vocab)},
                                            rows[r].params, static_cast<int64_t>(rows[r].position));
      const SamplingParams& p = rows[r].params;
      EXPECT_EQ(first[r], want.ok() ? want.value() : kBrokenLogits)
          << what << ", row " << r << ": vocabulary " << vocab << ", temperature " << p.temperature
          << ", top-k " << p.top_k << ", top-p " << p.top_p << ", min-p " << p.min_p;
    });
  }
};

// Parameters that turn every filter on and off, alone and together.
std::vector<SampleRow> all_filters(uint64_t seed) {
  std::vector<SampleRow> rows;
  for (float temperature : {0.0f, 0.3f, 0.6f, 1.0f, 2.5f})
    for (int top_k : {0, 1, 40, 5000})
      for (float top_p : {1.0f, 0.95f, 0.3f, 1e-6f})
        for (float min_p : {0.0f, 0.05f, 1.0f})
          rows.push_back({{temperature, top_k, top_p, min_p, seed++}, 7 * seed + 3});
  return rows;
}

TEST_F(SampleTest, DrawnIdsAreCarried) {
  const std::vector<int32_t> drawn = {70, kBrokenLogits, 72};
  std::vector<int32_t> ids(300), rows(300, -1), want;
  for (int32_t i = 0; i < 300; ++i) ids[static_cast<size_t>(i)] = 1000 + i;
  want = ids;
  rows[0] = 2;
  rows[17] = 0;
  rows[299] = 1;
  want[0] = 72;
  want[17] = 70;
  want[299] = 0;
  DeviceArray<int32_t> device_ids(ids), device_rows(rows), device_drawn(drawn);
  carry_drawn_ids(device_ids.data(), device_rows.data(), device_drawn.data(), 300, launch);
  synchronize();
  EXPECT_EQ(device_ids.download(), want);
}

TEST_F(SampleTest, EveryFilter) {
  for (int64_t vocab : {int64_t{1}, int64_t{7}, int64_t{500}, int64_t{129280}}) {
    std::vector<SampleRow> rows = all_filters(1);
    if (vocab > 1000)
      for (size_t i = 0; i < rows.size(); ++i) rows[i] = rows[(i * 7) % rows.size()];
    const int64_t stride = vocab + 3;
    std::vector<float> logits = random_floats(rows.size() * static_cast<size_t>(stride), 61, 2.5f);
    check(logits, vocab, rows, "random");
  }
}

// Rows so short that a sanitizer can follow every access: each filter once.
TEST_F(SampleTest, FewTokens) {
  const std::vector<SampleRow> rows = {
      {{0.0f, 0, 1.0f, 0.0f, 1}, 4}, {{0.8f, 5, 1.0f, 0.0f, 2}, 5}, {{1.0f, 0, 0.7f, 0.1f, 3}, 6}};
  check(random_floats(rows.size() * 43, 64, 2.0f), 40, rows, "few tokens");
}

// Logits of few values: every cut falls inside a run of equal ones, which only ids can divide.
TEST_F(SampleTest, Ties) {
  for (int64_t vocab : {int64_t{500}, int64_t{129280}}) {
    std::vector<SampleRow> rows = all_filters(1000);
    std::mt19937 generator(5);
    const float few[] = {-INFINITY, -9.0f, -0.0f, 0.0f, 1.5f};
    std::vector<float> logits(rows.size() * static_cast<size_t>(vocab));
    for (float& x : logits) x = few[generator() % 5];
    check(logits, vocab, rows, "ties");
  }
}

// A trained model's rows: one token far ahead, a long tail below the least weight.
TEST_F(SampleTest, Peaked) {
  const int64_t vocab = 129280;
  std::vector<SampleRow> rows = all_filters(2000);
  std::vector<float> logits = random_floats(rows.size() * static_cast<size_t>(vocab), 62, 4.0f);
  for (size_t r = 0; r < rows.size(); ++r) logits[r * vocab + (r * 977) % vocab] = 22.0f;
  check(logits, vocab, rows, "peaked");
}

TEST_F(SampleTest, BrokenLogitsFailTheirRowAlone) {
  const int64_t vocab = 129280;
  std::vector<SampleRow> rows(6, SampleRow{{0.6f, 0, 0.95f, 0.0f, 3}, 9});
  rows[5].params.temperature = 0;
  std::vector<float> logits = random_floats(rows.size() * static_cast<size_t>(vocab), 63);
  logits[0 * vocab + 100000] = NAN;
  logits[1 * vocab + 129279] = INFINITY;
  std::fill_n(logits.begin() + 2 * vocab, vocab, -INFINITY);
  std::fill_n(logits.begin() + 3 * vocab, vocab - 1, -INFINITY);
  check(logits, vocab, rows, "broken");
}

TEST_F(SampleTest, GreatestVocabulary) {
  const int64_t vocab = kMaxSampleVocab;
  std::vector<SampleRow> rows(3, SampleRow{{1.0f, 100000, 0.999f, 0.0f, 3}, 9});
  rows[1].params.top_k = 0;
  std::vector<float> logits(rows.size() * static_cast<size_t>(vocab), 0.25f);
  check(logits, vocab, rows, "all equal");
  EXPECT_ANY_THROW(sample_tokens(nullptr, vocab + 1, 1, vocab + 1, nullptr, nullptr, launch));
}

}  // namespace
}  // namespace fathom::cuda
