// Products with weights in words (QWeight::words) must be bit for bit those with the same weights
// in rows, which the other tests compare with float64 sums.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/cpu/words.h"
#include "kernels/linear_cases.h"
#include "tensor/buffer.h"

namespace fathom::test {
namespace {

// The same weight twice: in rows, and with words.
struct WithWords {
  explicit WithWords(const QWeight& w)
      : rows(w), words(w), memory(static_cast<size_t>(words_bytes(w))) {
    EXPECT_TRUE(add_words(words, memory.data(), true));
  }
  QWeight rows, words;
  Buffer memory;
};

std::vector<const CpuKernels*> kernels_with_words() {
  std::vector<const CpuKernels*> out;
  for (const CpuKernels* k : fast_kernels())
    if (k->reads_words) out.push_back(k);
  return out;
}

void expect_equal_products(Ops& ops, const QWeight& rows, const QWeight& words, Tensor x,
                           const std::string& what) {
  for (DType type : {DType::f32, DType::bf16}) {
    Matrix a(type, x.rows(), rows.rows, 3), b(type, x.rows(), rows.rows, 1);
    ops.linear(a.tensor, x, rows);
    ops.linear(b.tensor, x, words);
    expect_same_bits(a.tensor, b.tensor, what);
  }
}

std::string words_case(const CpuKernels& k, Numerics n, DType type, int64_t rows, int64_t columns,
                       int tokens) {
  return fmt::format("{} {} {} [{}, {}] T={}", k.name, name_of(n), name_of(type), rows, columns,
                     tokens);
}

// Whole and partial blocks of columns, several passes, strips that are missing at the end.
TEST(LinearWords, GiveTheBitsOfRows) {
  constexpr std::pair<int64_t, int64_t> kWordShapes[] = {
      {16, 16}, {64, 384}, {128, 128}, {33, 512}, {130, 144}, {48, 1536}, {31, 720}, {256, 656}};
  for (const CpuKernels* k : kernels_with_words())
    for (Numerics n : kAllNumerics)
      for (DType type : {DType::fp8_e4m3, DType::bf16})
        for (bool odd_scales : {false, true})
          for (bool ue8m0 : {true, false})
            for (auto [rows, columns] : kWordShapes) {
              ThreadPool pool(2);
              Workload workload = small_workload();
              workload.ue8m0 = ue8m0;
              std::unique_ptr<Ops> ops = k->make(n, workload, pool);
              RandomWeight w(rows, columns, type, 5, odd_scales);
              WithWords both(w.weight);
              for (int tokens : {1, 2, 3, 4, 5, 30}) {
                Matrix x = Matrix::random(activation_type(n), tokens, columns, 6, 5);
                expect_equal_products(*ops, both.rows, both.words, x.tensor,
                                      words_case(*k, n, type, rows, columns, tokens));
                if (testing::Test::HasFatalFailure()) return;
              }
            }
}

// Activations are multiplied by a power of two on the way: the greatest that can be, those that
// cannot, and the smallest; alone, and beside usual ones in the same row or in another row.
TEST(LinearWords, GiveTheBitsOfRowsForActivationsOfAnySize) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const CpuKernels* k : kernels_with_words())
    for (Numerics n : kAllNumerics)
      for (float magnitude : {65024.0f, 65280.0f, 65536.0f, 1e6f, 1e30f, 3e38f, inf, nan, 1e-20f,
                              0x1p-110f, 0x1p-118f, 0x1p-126f, 0x1p-133f, 0x1p-149f, 0.0f})
        for (int tokens : {1, 2, 3, 4}) {
          ThreadPool pool(2);
          std::unique_ptr<Ops> ops = k->make(n, small_workload(), pool);
          RandomWeight w(32, 272, DType::fp8_e4m3, 9);
          WithWords both(w.weight);
          for (bool mixed : {false, true}) {
            Matrix x = Matrix::random(activation_type(n), tokens, 272, 10);
            for (int64_t i = 0; i < 272; i += mixed ? 17 : 1)
              store(x.tensor, tokens - 1, i, i % 3 ? magnitude : -magnitude);
            Matrix a(DType::f32, tokens, 32), b(DType::f32, tokens, 32);
            ops->linear(a.tensor, x.tensor, both.rows);
            ops->linear(b.tensor, x.tensor, both.words);
            for (int t = 0; t < tokens; ++t)
              for (int i = 0; i < 32; ++i) {
                // Which of two NaNs a sum inherits is left to the processor.
                if (std::isnan(a.at(t, i)) && std::isnan(b.at(t, i))) continue;
                ASSERT_EQ(a.at(t, i), b.at(t, i))
                    << k->name << " " << name_of(n) << " " << magnitude << " T=" << tokens;
              }
          }
        }
}

TEST(LinearWords, DequantiseEveryCodeUnderAnyScale) {
  for (const CpuKernels* k : kernels_with_words())
    for (Numerics n : {Numerics::exact, Numerics::bf16})
      for (float scale : {1.0f, 0.5f, 0x1p-8f, 0x1p-23f, 0x1p100f, 0x1p-105f, 0x1p112f, 0x1p-116f,
                          -0.25f, 0.7f, 1.9990234f, 3e-5f}) {
        ThreadPool pool(1);
        std::unique_ptr<Ops> ops = k->make(n, small_workload(), pool);
        RandomWeight w(256, 16, DType::fp8_e4m3, 3);
        auto is_nan = [](int code) { return (code & 0x7F) == 0x7F; };
        for (int r = 0; r < 256; ++r)  // row r: code r in column r % 16, else zeros
          for (int c = 0; c < 16; ++c)
            const_cast<uint8_t*>(w.weight.row<uint8_t>(r))[c] =
                static_cast<uint8_t>(c == r % 16 && !is_nan(r) ? r : 0);
        for (int block : {0, 1}) const_cast<float*>(w.weight.scale)[block] = scale;
        WithWords both(w.weight);
        const std::vector<uint8_t> not_read(256 * 16, 0x55);
        both.words.data = not_read.data();
        for (int tokens = 1; tokens <= 4; ++tokens) {
          Matrix x(activation_type(n), tokens, 16), out(DType::f32, tokens, 256);
          for (int t = 0; t < tokens; ++t)
            for (int c = 0; c < 16; ++c) store(x.tensor, t, c, 1.0f);
          ops->linear(out.tensor, x.tensor, both.words);
          for (int r = 0; r < 256; ++r) {
            float want = (is_nan(r) ? 0 : fp8_to_float(static_cast<uint8_t>(r))) * scale;
            if (n == Numerics::bf16) want = round_bf16(want);
            for (int t = 0; t < tokens; ++t)
              ASSERT_EQ(out.at(t, r), want) << k->name << " code " << r << " scale " << scale;
          }
        }
      }
}

// Slices keep their words where they begin with a strip.
TEST(LinearWords, OfSlicesAreSlicesOfWords) {
  RandomWeight w(400, 320, DType::fp8_e4m3, 3, true);
  WithWords both(w.weight);
  EXPECT_EQ(both.words.slice_rows(160, 278).words, both.words.words + 160 * 320);
  EXPECT_EQ(both.words.slice_rows(75, 278).words, nullptr);
  EXPECT_EQ(both.words.slice_columns(128, 320).words, nullptr);
  EXPECT_EQ(both.words.slice_columns(0, 320).words, both.words.words);
  for (const CpuKernels* k : kernels_with_words())
    for (Numerics n : kAllNumerics) {
      ThreadPool pool(2);
      std::unique_ptr<Ops> ops = k->make(n, small_workload(), pool);
      for (int tokens : {1, 3}) {
        Matrix x = Matrix::random(activation_type(n), tokens, 320, 4);
        for (int64_t begin : {160, 75})
          expect_equal_products(*ops, both.rows.slice_rows(begin, 278),
                                both.words.slice_rows(begin, 278), x.tensor,
                                fmt::format("{}: rows from {}", k->name, begin));
      }
    }
}

// Experts with and without words side by side, and projections of one input.
TEST(LinearWords, MixWithRows) {
  for (const CpuKernels* k : kernels_with_words())
    for (Numerics n : kAllNumerics) {
      ThreadPool pool(2);
      std::unique_ptr<Ops> ops = k->make(n, small_workload(), pool);
      std::vector<RandomWeight> memory;
      std::vector<std::unique_ptr<WithWords>> words;
      auto weight = [&](int64_t rows, int64_t columns) {
        memory.emplace_back(rows, columns, DType::fp8_e4m3, static_cast<uint32_t>(memory.size()));
        words.push_back(std::make_unique<WithWords>(memory.back().weight));
      };
      for (int e = 0; e < 5; ++e) {
        weight(128, 384);
        weight(128, 384);
        weight(384, 128);
      }
      auto expert = [&](size_t e, bool with) {
        auto of = [&](size_t i) { return with ? words[i]->words : words[i]->rows; };
        // Of one of them only the upper matrix has words.
        return MlpWeights{e == 2 ? words[3 * e]->rows : of(3 * e), of(3 * e + 1), of(3 * e + 2)};
      };
      std::vector<MlpWeights> plain, mixed;
      for (size_t e = 0; e < 4; ++e) {
        plain.push_back(expert(e, false));
        mixed.push_back(expert(e, e != 1));
      }
      const MlpWeights shared = expert(4, false), shared_words = expert(4, true);
      for (int tokens : {1, 2, 3, 7}) {
        Matrix x = Matrix::random(activation_type(n), tokens, 384, 6);
        std::vector<int32_t> id(static_cast<size_t>(2 * tokens));
        Matrix weights(DType::f32, tokens, 2);
        for (int t = 0; t < tokens; ++t)
          for (int j = 0; j < 2; ++j) {
            id[static_cast<size_t>(2 * t + j)] = (t + 2 * j + t / 3) % 4;
            store(weights.tensor, t, j, 0.25f + static_cast<float>(j));
          }
        Tensor ids(id.data(), DType::i32, {tokens, 2});
        Matrix a(activation_type(n), tokens, 384), b(activation_type(n), tokens, 384);
        ops->moe(a.tensor, x.tensor, ids, weights.tensor, plain, &shared);
        ops->moe(b.tensor, x.tensor, ids, weights.tensor, mixed, &shared_words);
        expect_same_bits(a.tensor, b.tensor, fmt::format("{} T={}", k->name, tokens));

        std::vector<Matrix> out;
        for (int i = 0; i < 4; ++i) out.emplace_back(DType::f32, tokens, 128);
        const Projection by_rows[] = {{out[0].tensor, words[0]->rows},
                                      {out[1].tensor, words[1]->rows}};
        const Projection by_words[] = {{out[2].tensor, words[0]->rows},
                                       {out[3].tensor, words[1]->words}};
        ops->project(by_rows, x.tensor);
        ops->project(by_words, x.tensor);
        expect_same_bits(out[0].tensor, out[2].tensor, "rows beside words");
        expect_same_bits(out[1].tensor, out[3].tensor, "words beside rows");
      }
    }
}

// [word of columns][row]; the copy of a slice of a wider matrix, too.
TEST(LinearWords, LieByColumn) {
  for (DType type : {DType::fp8_e4m3, DType::bf16}) {
    const int64_t size = static_cast<int64_t>(size_of(type)), per_word = 4 / size;
    RandomWeight whole(40, 256, type, 3);
    const QWeight part = whole.weight.slice_columns(128, 160);
    ASSERT_EQ(words_bytes(part), 32 * 32 * size);
    WithWords both(part);
    for (int64_t r = 0; r < 32; ++r)
      for (int64_t c = 0; c < 32; ++c) {
        const int64_t word = r / 16 * 16 * (32 / per_word) + c / per_word * 16 + r % 16;
        ASSERT_EQ(0,
                  std::memcmp(both.words.words + 4 * word + c % per_word * size,
                              static_cast<const char*>(part.data) + (r * part.stride() + c) * size,
                              static_cast<size_t>(size)))
            << name_of(type) << " [" << r << ", " << c << "]";
      }
  }
}

TEST(LinearWords, AreNotMadeOfWeightsThatTheyDoNotSuit) {
  EXPECT_EQ(words_bytes(QWeight{}), 0);
  EXPECT_EQ(words_bytes(RandomWeight(32, 64, DType::f32, 1).weight), 0);
  EXPECT_EQ(words_bytes(RandomWeight(32, 64, DType::f16, 1).weight), 0);
  EXPECT_EQ(words_bytes(RandomWeight(32, 72, DType::fp8_e4m3, 1).weight), 0);
  EXPECT_EQ(words_bytes(RandomWeight(15, 64, DType::fp8_e4m3, 1).weight), 0);
  EXPECT_EQ(words_bytes(RandomWeight(130, 64, DType::fp8_e4m3, 1, false, 5).weight), 0);
  EXPECT_GT(words_bytes(RandomWeight(130, 64, DType::fp8_e4m3, 1, false, 64).weight), 0);

  RandomWeight w(32, 64, DType::fp8_e4m3, 1);
  Buffer memory(static_cast<size_t>(words_bytes(w.weight)));
  auto set_all = [&](uint8_t code) {
    std::memset(const_cast<void*>(w.weight.data), code, static_cast<size_t>(32 * 64));
  };
  auto suits = [&] {
    QWeight copy = w.weight;
    const bool made = add_words(copy, memory.data());
    EXPECT_EQ(copy.words != nullptr, made);
    return made;
  };
  set_all(0x80);  // zeros are not subnormal
  EXPECT_TRUE(suits());
  uint8_t* code = const_cast<uint8_t*>(w.weight.row<uint8_t>(0));
  for (int i = 0; i < 32 * 64 / 256; ++i) code[100 * i] = i % 2 ? 0x87 : 0x01;
  EXPECT_TRUE(suits());
  code[1] = 0x03;
  EXPECT_FALSE(suits());
  for (uint8_t nan : {uint8_t{0x7F}, uint8_t{0xFF}}) {
    set_all(0x30);
    EXPECT_TRUE(suits());
    code[32 * 64 - 1] = nan;
    EXPECT_FALSE(suits());
  }
}

}  // namespace
}  // namespace fathom::test
