// Projections of the fast implementations: against float64 sums, and bit for bit among themselves.
#include "kernels/linear_cases.h"

namespace fathom::test {
namespace {

struct Shape {
  int64_t rows, cols;
  int row_offset = 0;
};

// Partial blocks and strips, single rows and columns, blocks that start inside a weight.
constexpr Shape kShapes[] = {{64, 384},  {576, 256},    {17, 200},      {1, 128},     {5, 1},
                             {128, 768}, {40, 1040},    {130, 130, 64}, {33, 512, 5}, {300, 24},
                             {16, 16},   {100, 513, 7}, {48, 1536}};
constexpr int kTokens[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 33};

std::string name(const CpuKernels& k, Numerics n, const Shape& s, DType type, int tokens) {
  return fmt::format("{} {} [{}, {}]+{} {} T={}", k.name, name_of(n), s.rows, s.cols, s.row_offset,
                     name_of(type), tokens);
}

void check_against_sums(const CpuKernels& kernels, Numerics numerics, DType type, bool odd_scales,
                        bool ue8m0) {
  ThreadPool pool(2);
  Workload workload = small_workload();
  workload.ue8m0 = ue8m0;
  std::unique_ptr<Ops> ops = kernels.make(numerics, workload, pool);
  uint32_t seed = 1;
  for (const Shape& s : kShapes) {
    RandomWeight w(s.rows, s.cols, type, ++seed, odd_scales, s.row_offset);
    for (int tokens : {1, 3, 9}) {
      Matrix x = Matrix::random(activation_type(numerics), tokens, s.cols, ++seed, 3);
      Matrix out(tokens % 2 ? activation_type(numerics) : DType::f32, tokens, s.rows, 5);
      ops->linear(out.tensor, x.tensor, w.weight);
      expect_close(expected_product(x.tensor, w.weight, numerics, ue8m0), out,
                   name(kernels, numerics, s, type, tokens));
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(Linear, MatchesFloat64SumsWithinTheirBound) {
  for (const CpuKernels* k : fast_kernels())
    for (Numerics n : kAllNumerics) {
      for (DType type : {DType::fp8_e4m3, DType::bf16, DType::f32, DType::f16})
        check_against_sums(*k, n, type, false, true);
      check_against_sums(*k, n, DType::fp8_e4m3, true, true);
      check_against_sums(*k, n, DType::fp8_e4m3, true, false);
      check_against_sums(*k, n, DType::fp8_e4m3, false, false);
    }
}

// The result of a row must not know how many rows, threads or neighbours there are.
void check_bits(const CpuKernels& kernels, Numerics numerics, DType type, bool odd_scales) {
  ThreadPool one(1), two(2), three(3);
  std::unique_ptr<Ops> by_one = kernels.make(numerics, small_workload(), one),
                       by_two = kernels.make(numerics, small_workload(), two),
                       by_three = kernels.make(numerics, small_workload(), three);
  for (const Shape& s : kShapes) {
    RandomWeight w(s.rows, s.cols, type, 7, odd_scales, s.row_offset);
    Matrix x = Matrix::random(activation_type(numerics), 40, s.cols, 8);
    Matrix whole(DType::f32, 40, s.rows), part(DType::f32, 40, s.rows);
    by_one->linear(whole.tensor, x.tensor, w.weight);
    for (int tokens : kTokens)
      for (Ops* ops : {by_one.get(), by_two.get(), by_three.get()}) {
        Tensor to = part.tensor.slice(0, tokens);
        ops->linear(to, x.tensor.slice(6, 6 + tokens), w.weight);
        expect_same_bits(whole.tensor.slice(6, 6 + tokens), to,
                         name(kernels, numerics, s, type, tokens));
        if (testing::Test::HasFatalFailure()) return;
      }
  }
}

TEST(Linear, IsBitEqualForAnyBatchAndThreadCount) {
  for (const CpuKernels* k : fast_kernels())
    for (Numerics n : kAllNumerics) {
      for (DType type : {DType::fp8_e4m3, DType::bf16, DType::f32}) check_bits(*k, n, type, false);
      check_bits(*k, n, DType::fp8_e4m3, true);
    }
}

TEST(Linear, ProjectsTheSameInputThroughWeightsOfAnyKind) {
  for (const CpuKernels* k : fast_kernels())
    for (Numerics n : kAllNumerics) {
      ThreadPool pool(2);
      std::unique_ptr<Ops> ops = k->make(n, small_workload(), pool);
      RandomWeight a(96, 384, DType::fp8_e4m3, 1), b(64, 384, DType::bf16, 2),
          c(20, 384, DType::f32, 3), d(576, 384, DType::fp8_e4m3, 4, true),
          e(33, 384, DType::fp8_e4m3, 5);
      for (int tokens : {1, 6}) {
        Matrix x = Matrix::random(activation_type(n), tokens, 384, 6);
        std::vector<Matrix> together, alone;
        std::vector<Projection> projections;
        for (const RandomWeight* w : {&a, &b, &c, &d, &e}) {
          together.emplace_back(DType::f32, tokens, w->weight.rows, 1);
          alone.emplace_back(DType::f32, tokens, w->weight.rows);
          projections.push_back({together.back().tensor, w->weight});
          ops->linear(alone.back().tensor, x.tensor, w->weight);
        }
        ops->project(projections, x.tensor);
        for (size_t i = 0; i < alone.size(); ++i)
          expect_same_bits(alone[i].tensor, together[i].tensor, fmt::format("projection {}", i));
      }
    }
}

TEST(Linear, SlicesOfAWeightGiveSlicesOfTheResult) {
  for (const CpuKernels* k : fast_kernels())
    for (Numerics n : kAllNumerics) {
      ThreadPool pool(2);
      std::unique_ptr<Ops> ops = k->make(n, small_workload(), pool);
      RandomWeight w(400, 320, DType::fp8_e4m3, 3, true);
      Matrix x = Matrix::random(activation_type(n), 6, 320, 4);
      Matrix whole(DType::f32, 6, 400), part(DType::f32, 6, 203);
      ops->linear(whole.tensor, x.tensor, w.weight);
      ops->linear(part.tensor, x.tensor, w.weight.slice_rows(75, 278));
      expect_same_bits(whole.tensor.columns(75, 278), part.tensor, "rows [75, 278)");
    }
}

TEST(Linear, LeavesTheMemoryBesideItsOutputAlone) {
  for (const CpuKernels* k : fast_kernels()) {
    ThreadPool pool(2);
    std::unique_ptr<Ops> ops = k->make(Numerics::bf16, small_workload(), pool);
    RandomWeight w(37, 72, DType::fp8_e4m3, 3);
    for (int tokens : {1, 2, 4, 5, 8, 9, 13, 65}) {
      Matrix x = Matrix::random(DType::bf16, tokens, 72, 4);
      Matrix all(DType::f32, tokens, 64);
      for (int64_t t = 0; t < tokens; ++t)
        for (int i = 0; i < 64; ++i) store(all.tensor, t, i, 12345.0f);
      ops->linear(all.tensor.columns(10, 47), x.tensor, w.weight);
      for (int64_t t = 0; t < tokens; ++t)
        for (int i = 0; i < 64; ++i) {
          bool inside = i >= 10 && i < 47;
          ASSERT_EQ(all.at(t, i) == 12345.0f, !inside) << k->name << " " << t << " " << i;
        }
    }
  }
}

// A NaN code or activation must reach the outputs it belongs to and no other.
TEST(Linear, CarriesNaN) {
  for (const CpuKernels* k : fast_kernels())
    for (Numerics n : kAllNumerics)
      for (int tokens : {2, 6, 30}) {
        ThreadPool pool(1);
        std::unique_ptr<Ops> ops = k->make(n, small_workload(), pool);
        RandomWeight w(32, 200, DType::fp8_e4m3, 3);
        const_cast<uint8_t*>(w.weight.row<uint8_t>(9))[150] = 0xFF;
        Matrix x = Matrix::random(activation_type(n), tokens, 200, 4);
        store(x.tensor, 1, 199, NAN);
        Matrix out(DType::f32, tokens, 32);
        ops->linear(out.tensor, x.tensor, w.weight);
        for (int64_t t = 0; t < tokens; ++t)
          for (int64_t i = 0; i < 32; ++i)
            ASSERT_EQ(std::isnan(out.at(t, i)), t == 1 || i == 9) << k->name << t << " " << i;
      }
}

// Every code under every kind of scale: powers of two in and beyond the range where exponents can
// simply be added, and others.
TEST(Linear, DequantisesEveryCodeUnderAnyScale) {
  for (const CpuKernels* k : fast_kernels())
    for (Numerics n : {Numerics::exact, Numerics::bf16})
      for (float scale : {1.0f, 0.5f, 2.0f, 0x1p-23f, 0x1p100f, 0x1p-105f, 0x1p-112f, 0x1p112f,
                          0x1p-116f, -0.25f, 0.7f, 1.9990234f, 3e-5f}) {
        ThreadPool pool(1);
        std::unique_ptr<Ops> ops = k->make(n, small_workload(), pool);
        RandomWeight w(256, 16, DType::fp8_e4m3, 3);
        for (int r = 0; r < 256; ++r)  // row r: code r, then zeros
          for (int c = 0; c < 16; ++c)
            const_cast<uint8_t*>(w.weight.row<uint8_t>(r))[c] = c ? 0 : static_cast<uint8_t>(r);
        for (int block : {0, 1}) const_cast<float*>(w.weight.scale)[block] = scale;
        for (int tokens : {1, 5, 27}) {
          Matrix x(activation_type(n), tokens, 16), out(DType::f32, tokens, 256);
          for (int t = 0; t < tokens; ++t) store(x.tensor, t, 0, 1.0f);
          ops->linear(out.tensor, x.tensor, w.weight);
          for (int r = 0; r < 256; ++r) {
            float want = fp8_to_float(static_cast<uint8_t>(r)) * scale;
            if (n == Numerics::bf16) want = round_bf16(want);
            for (int t = 0; t < tokens; ++t) {
              if (std::isnan(want))
                ASSERT_TRUE(std::isnan(out.at(t, r))) << r;
              else
                ASSERT_EQ(out.at(t, r), want) << k->name << " code " << r << " scale " << scale;
            }
          }
        }
      }
}

TEST(Linear, NoRowsAreNoWork) {
  for (const CpuKernels* k : fast_kernels()) {
    ThreadPool pool(2);
    std::unique_ptr<Ops> ops = k->make(Numerics::bf16, small_workload(), pool);
    RandomWeight w(32, 64, DType::fp8_e4m3, 3);
    Matrix x(DType::bf16, 0, 64), out(DType::bf16, 0, 32);
    ops->linear(out.tensor, x.tensor, w.weight);
  }
}

// More rows and columns than one pass over the activations holds.
TEST(Linear, ManyRowsAreBitEqualToFew) {
  for (const CpuKernels* k : fast_kernels()) {
    ThreadPool pool(2);
    std::unique_ptr<Ops> ops = k->make(Numerics::bf16, small_workload(1100), pool);
    RandomWeight w(80, 768, DType::fp8_e4m3, 3);
    Matrix x = Matrix::random(DType::bf16, 1100, 768, 4);
    Matrix whole(DType::bf16, 1100, 80), part(DType::bf16, 2, 80);
    ops->linear(whole.tensor, x.tensor, w.weight);
    for (int64_t row : {0, 510, 511, 512, 1023, 1098}) {
      ops->linear(part.tensor, x.tensor.slice(row, row + 2), w.weight);
      expect_same_bits(whole.tensor.slice(row, row + 2), part.tensor, fmt::format("row {}", row));
    }
  }
}

// What the workspace was not planned for goes to the reference.
TEST(Linear, TakesColumnsBeyondTheWorkload) {
  for (const CpuKernels* k : fast_kernels()) {
    ThreadPool pool(2);
    std::unique_ptr<Ops> ops = k->make(Numerics::bf16, small_workload(1), pool);
    RandomWeight w(8, 40000, DType::bf16, 3);
    Matrix x = Matrix::random(DType::bf16, 2, 40000, 4);
    Matrix out(DType::f32, 2, 8);
    ops->linear(out.tensor, x.tensor, w.weight);
    expect_close(expected_product(x.tensor, w.weight, Numerics::bf16, true), out, "wide");
  }
}

}  // namespace
}  // namespace fathom::test
