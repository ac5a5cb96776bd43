// Scores of the lightning indexer on the GPU against float64 sums over the same codes; rows bit for
// bit the same whichever kernel, tile or batch computed them; nothing written beyond a row's own
// position.
#include "kernels/cuda/indexer/index_scores.h"

#include <numeric>

#include "kernels/cuda/indexer/index_scores_plan.h"
#include "support.h"

namespace fathom::cuda {
namespace {

constexpr int kDim = KernelDims::kIndex;

TEST(IndexPlan, PagesBeforeIsTheSumOverGroups) {
  for (int queries : {4, 8, 32})
    for (int64_t position : {0, 1, 3, 59, 60, 61, 63, 64, 1000, 131071}) {
      int64_t sum = 0;
      for (int64_t k = 0; k < 70; ++k) {
        ASSERT_EQ(index_pages_before(position, k, queries), sum) << position << " " << k;
        sum += (position + k * queries + queries - 1) / kPageRows + 1;
      }
    }
}

TEST(IndexPlan, TokensThatPickAllCandidatesAreNotScored) {
  for (int64_t topk : {1, 64, 2048})
    for (int tokens : {1, 2, 65, 4096})
      for (int64_t context : {int64_t{tokens}, topk, topk + 1, topk + tokens, int64_t{163840}}) {
        if (context < tokens) continue;
        const IndexSpan part = scored_part({7, 7 + tokens, 3, context}, topk);
        EXPECT_EQ(part.end, 7 + tokens);
        EXPECT_EQ(part.sequence, 3);
        EXPECT_EQ(part.context, context);
        for (int t = 0; t < tokens; ++t) {
          const int64_t candidates = context - (tokens - 1 - t);
          ASSERT_EQ(7 + t >= part.begin, candidates > topk)
              << "token " << t << " of " << tokens << ", context " << context << ", top " << topk;
        }
      }
}

TEST(IndexPlan, RunsAndSpans) {
  std::vector<IndexSpan> spans = {{0, 1, 0, 9},    {1, 2, 1, 5},   {2, 10, 2, 8},
                                  {10, 80, 3, 99}, {80, 81, 4, 3}, {90, 91, 5, 3}};
  std::vector<IndexRun> runs = plan_index_runs(spans);
  ASSERT_EQ(runs.size(), 4u);  // tokens 81 to 89 are not wanted: a run of single tokens ends there
  EXPECT_FALSE(runs[0].prefill);
  EXPECT_EQ(runs[0].last, 2u);
  EXPECT_TRUE(runs[1].prefill);
  EXPECT_EQ(runs[1].last, 4u);
  EXPECT_EQ(runs[2].last, 5u);
  EXPECT_EQ(runs[3].first, 5u);

  std::vector<IndexSpan> many;
  for (int i = 0; i < 100; ++i) many.push_back({i * 4, i * 4 + 4, i, 64 + i});
  std::vector<IndexPrefillPlan> plans = plan_index_prefill(many, 4);
  ASSERT_EQ(plans.size(), 3u);
  EXPECT_EQ(plans[2].count, 100 - 2 * IndexPrefillPlan::kMaxSpans);
  EXPECT_EQ(plans[0].spans[1].units_before, 1);
  EXPECT_EQ(plans[0].spans[2].units_before, 3);  // 65 positions are two pages
}

struct Span {
  int tokens;
  int context;
};

// A batch with its cache: pages in random order, all rows no position has poisoned with NaN.
struct Batch {
  bool fp8;
  int heads;
  std::vector<IndexSpan> spans;
  std::vector<int32_t> positions, sequence_of, tables;
  int max_pages = 0, tokens = 0, pages = 0;
  int64_t max_context = 0;
  std::vector<uint8_t> codes, cache;
  std::vector<Bf16> q16;
  std::vector<float> weight;

  Batch(bool fp8_, int heads_, const std::vector<Span>& shape, uint32_t seed)
      : fp8(fp8_), heads(heads_) {
    for (const Span& s : shape) {
      spans.push_back(
          {tokens, tokens + s.tokens, static_cast<int>(spans.size()), int64_t{s.context}});
      for (int i = 0; i < s.tokens; ++i) {
        positions.push_back(s.context - s.tokens + i);
        sequence_of.push_back(static_cast<int32_t>(spans.size()) - 1);
      }
      tokens += s.tokens;
      max_context = std::max<int64_t>(max_context, s.context);
    }
    max_pages = static_cast<int>((max_context + kPageRows - 1) / kPageRows);
    std::vector<int> used;
    for (const Span& s : shape) used.push_back((s.context + kPageRows - 1) / kPageRows);
    pages = std::accumulate(used.begin(), used.end(), 0);
    std::vector<int32_t> order(static_cast<size_t>(pages));
    std::iota(order.begin(), order.end(), 0);
    std::mt19937 generator(seed);
    std::shuffle(order.begin(), order.end(), generator);
    // Entries beyond a sequence's pages are far outside the cache.
    tables.assign(shape.size() * static_cast<size_t>(max_pages), 1 << 30);
    size_t next = 0;
    for (size_t s = 0; s < shape.size(); ++s)
      for (int i = 0; i < used[s]; ++i)
        tables[s * static_cast<size_t>(max_pages) + static_cast<size_t>(i)] = order[next++];

    const size_t n = static_cast<size_t>(tokens) * static_cast<size_t>(heads) * kDim;
    if (fp8)
      codes = random_codes(n, seed + 1);
    else
      q16 = random_bf16(n, seed + 1);
    weight = random_floats(static_cast<size_t>(tokens * heads), seed + 2, 0.05f);
    cache.assign(static_cast<size_t>(pages) * page_bytes(), 0xFF);
    const size_t rows = static_cast<size_t>(pages) * kPageRows;
    const std::vector<uint8_t> key_codes =
        fp8 ? random_codes(rows * kDim, seed + 3) : std::vector<uint8_t>();
    const std::vector<Bf16> keys16 = fp8 ? std::vector<Bf16>() : random_bf16(rows * kDim, seed + 3);
    const std::vector<float> scales = random_scales(rows, seed + 4, seed % 2 == 0);
    for (size_t s = 0; s < shape.size(); ++s)
      for (int p = 0; p < shape[s].context; ++p) {
        const size_t row = row_of(static_cast<int>(s), p);
        if (fp8) {
          std::memcpy(key_at(row), &key_codes[row * kDim], kDim);
          std::memcpy(scale_at(row), &scales[row], 4);
        } else {
          std::memcpy(key_at(row), &keys16[row * kDim], 2 * kDim);
        }
      }
  }
  size_t page_bytes() const { return kPageRows * (fp8 ? kDim + 4 : 2 * kDim); }
  size_t row_of(int sequence, int position) const {
    return static_cast<size_t>(fathom::row_of(
        &tables[static_cast<size_t>(sequence) * static_cast<size_t>(max_pages)], position));
  }
  uint8_t* key_at(size_t row) {
    return &cache[row / kPageRows * page_bytes() + row % kPageRows * (fp8 ? kDim : 2 * kDim)];
  }
  uint8_t* scale_at(size_t row) {
    return &cache[row / kPageRows * page_bytes() + kPageRows * kDim + row % kPageRows * 4];
  }

  // Exact score and how far a float32 result may be from it. The tensor cores add fp8 products
  // cut off below about 13 bits of the largest term, in each of four steps; bf16 products in
  // float32.
  double reference(int t, int position, double& bound) {
    const size_t row = row_of(sequence_of[static_cast<size_t>(t)], position);
    float scale = 1.0f;
    if (fp8) std::memcpy(&scale, scale_at(row), 4);
    double key[kDim];
    for (int i = 0; i < kDim; ++i)
      key[i] = fp8 ? double{fp8_to_float(key_at(row)[i])}
                   : double{to_float(reinterpret_cast<const Bf16*>(key_at(row))[i])};
    double sum = 0, error = 0, magnitude = 0;
    for (int h = 0; h < heads; ++h) {
      const size_t at = static_cast<size_t>(t * heads + h);
      double dot = 0, absolute = 0;
      for (int i = 0; i < kDim; ++i) {
        const size_t from = at * kDim + static_cast<size_t>(i);
        const double product =
            key[i] * (fp8 ? double{fp8_to_float(codes[from])} : double{to_float(q16[from])});
        dot += product;
        absolute += std::abs(product);
      }
      sum += std::max(dot, 0.0) * double{weight[at]};
      magnitude += std::max(dot, 0.0) * std::abs(double{weight[at]});
      error += std::abs(double{weight[at]}) * absolute * (fp8 ? 0x1p-12 : 0x1p-21);
    }
    bound = std::abs(double{scale}) * (error + f32_bound(sum, magnitude, heads));
    return sum * double{scale};
  }
};

class IndexScoresTest : public GpuTest {
 protected:
  enum class Form { chosen, decode, pairs, prefill };

  // Scores as the kernel left them, rows of `stride` floats.
  std::vector<float> run(const Batch& b, Form form, int64_t stride) {
    DeviceArray<uint8_t> codes(b.codes), cache(b.cache);
    DeviceArray<Bf16> q16(b.q16);
    DeviceArray<float> weight(b.weight);
    DeviceArray<int32_t> positions(b.positions), sequence_of(b.sequence_of), tables(b.tables);
    DeviceArray<float> scores(static_cast<size_t>(b.tokens * stride));
    IndexScoresParams p;
    p.q = b.fp8 ? static_cast<const void*>(codes.data()) : q16.data();
    p.fp8 = b.fp8;
    p.head_weight = weight.data();
    p.tokens = b.tokens;
    p.index_heads = b.heads;
    p.pages = reinterpret_cast<const std::byte*>(cache.data());
    p.page_count = b.pages;
    p.page_tables = tables.data();
    p.max_pages = b.max_pages;
    p.sequence_of = sequence_of.data();
    p.positions = positions.data();
    p.scores = scores.data();
    p.stride = stride;
    p.max_context = b.max_context;
    if (form == Form::decode || form == Form::pairs)
      index_scores_decode(p, 0, b.tokens, launch, form == Form::pairs);
    else if (form == Form::prefill)
      index_scores_prefill(p, b.spans, launch);
    else
      index_scores(p, b.spans, launch);
    synchronize();
    return scores.download();
  }

  // Both kernels and the front, twice; then values of up to `rows` rows and `keys` keys of each.
  void check(Batch b, int rows = 1 << 30, int keys = 1 << 30) {
    const int64_t stride = b.max_context + 3;
    const std::vector<float> got = run(b, Form::decode, stride);
    auto same = [&](const std::vector<float>& other, const char* what) {
      if (std::memcmp(got.data(), other.data(), got.size() * sizeof(float)) == 0) return;
      size_t i = 0;
      while (std::memcmp(&got[i], &other[i], sizeof(float)) == 0) ++i;
      ADD_FAILURE() << what << ": token " << i / stride << " key " << i % stride << " position "
                    << b.positions[i / stride] << ": " << got[i] << " and " << other[i];
    };
    same(run(b, Form::decode, stride), "decode twice");
    same(run(b, Form::pairs, stride), "decode and decode in pairs");
    same(run(b, Form::prefill, stride), "decode and prefill");
    same(run(b, Form::prefill, stride), "decode and prefill again");
    same(run(b, Form::chosen, stride), "decode and the front's choice");

    std::vector<double> worst(static_cast<size_t>(b.tokens), 0.0);
    std::vector<int> wrong(static_cast<size_t>(b.tokens), -1);
    const int row_step = std::max(1, b.tokens / rows);
    parallel(b.tokens, [&](int64_t t) {
      const int position = b.positions[static_cast<size_t>(t)];
      const float* row = &got[static_cast<size_t>(t * stride)];
      int& bad = wrong[static_cast<size_t>(t)];
      for (int64_t s = position + 1; s < stride; ++s)
        if (bits_of(row[s]) != 0xFFFFFFFFu) bad = static_cast<int>(s);
      for (int64_t s = 0; s <= position; ++s)
        if (!std::isfinite(row[s])) bad = static_cast<int>(s);
      if (t % row_step != 0 && t + 1 != b.tokens) return;
      const int key_step = std::max(1, (position + 1) / keys);
      for (int s = static_cast<int>(t) % key_step; s <= position; s += key_step) {
        double bound = 0;
        const double want = b.reference(static_cast<int>(t), s, bound);
        const double ratio = std::abs(double{row[s]} - want) / bound;
        if (!(ratio <= 1)) bad = s;
        worst[static_cast<size_t>(t)] = std::max(worst[static_cast<size_t>(t)], ratio);
      }
    });
    for (int t = 0; t < b.tokens; ++t) {
      const int s = wrong[static_cast<size_t>(t)];
      if (s < 0) continue;
      double bound = 0;
      const int position = b.positions[static_cast<size_t>(t)];
      const double want = s <= position ? b.reference(t, s, bound) : 0;
      ADD_FAILURE() << "token " << t << " of " << b.tokens << " key " << s << " position "
                    << position << ": " << got[static_cast<size_t>(t * stride + s)] << ", not "
                    << want << " +- " << bound;
      break;
    }
    RecordProperty("worst", std::to_string(*std::max_element(worst.begin(), worst.end())));
  }
};

TEST_F(IndexScoresTest, OneTokenAtPageBorders) {
  for (bool fp8 : {true, false})
    for (int context : {1, 2, 63, 64, 65, 127, 128, 129, 257, 2048})
      check(Batch(fp8, 64, {{1, context}}, 1));
}

TEST_F(IndexScoresTest, HeadCounts) {
  for (bool fp8 : {true, false})
    for (int heads : {1, 4, 8, 9, 16, 31, 32, 33, 63, 64})
      check(Batch(fp8, heads, {{1, 70}, {9, 130}, {2, 64}, {40, 40}}, 2));
}

TEST_F(IndexScoresTest, DecodeBatches) {
  for (int tokens : {2, 31, 32, 33, 100}) {
    std::mt19937 generator(static_cast<uint32_t>(tokens));
    std::vector<Span> shape;
    for (int i = 0; i < tokens; ++i)
      shape.push_back({1, i % 7 == 3 ? 1 : 1 + static_cast<int>(generator() % 3000)});
    check(Batch(true, 64, shape, 3), 33, 200);
  }
}

// Two tokens a sequence share their keys where the slots of the schedule allow it.
TEST_F(IndexScoresTest, DecodePairs) {
  for (int first : {1, 2}) {
    std::vector<Span> shape = {{first, 300}};
    for (int i = 0; i < 80; ++i) shape.push_back({2, 2 + (i * 37) % 1000});
    shape.push_back({1, 64});
    check(Batch(true, 64, shape, 11), 40, 100);
    check(Batch(false, 8, shape, 12), 40, 100);
  }
}

// Few processors: long pieces, whose rings go round many times and which change queries often.
TEST_F(IndexScoresTest, FewProcessors) {
  std::vector<Span> shape;
  for (int i = 0; i < 70; ++i) shape.push_back({1 + i % 3, 3 + 11 * i});
  for (int sms : {1, 3}) {
    launch.sms = sms;
    check(Batch(true, 64, shape, 4), 20, 100);
    check(Batch(false, 8, shape, 4), 20, 100);
  }
}

TEST_F(IndexScoresTest, PrefillChunks) {
  check(Batch(true, 64, {{129, 129}, {64, 1000}, {1, 77}, {65, 65}, {3, 4}}, 5), 60, 100);
  check(Batch(false, 64, {{127, 4100}, {5, 70}}, 6), 60, 100);
  std::vector<Span> many;  // more spans than one launch takes
  for (int i = 0; i < 120; ++i) many.push_back({3 + i % 7, 10 + 5 * i});
  check(Batch(true, 64, many, 7), 40, 100);
  check(Batch(true, 8, many, 8), 40, 100);
}

TEST_F(IndexScoresTest, LongPrefill) {
  check(Batch(true, 64, {{2050, 4099}}, 9), 24, 300);
  check(Batch(true, 64, {{301, 33000}}, 10), 16, 500);
}

}  // namespace
}  // namespace fathom::cuda
