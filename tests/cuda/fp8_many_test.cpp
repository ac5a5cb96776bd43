// FP8 products of many rows against a float64 sum of the same codes and scales.
#include "kernels/cuda/gemm/fp8_many.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "cuda/support.h"

namespace fathom::cuda {
namespace {

// The tensor core aligns the products of an instruction to the greatest and drops what lies more
// than 13 bits below; float32 promotion every 128 keeps that from growing with k.
constexpr double kPartialError = 0x1p-13;

struct Case {
  int n, k;
  bool powers_of_two;
};

class Fp8ManyTest : public GpuTest {
 protected:
  // Operands of `experts` weights and up to `rows` rows.
  void prepare(int experts, int rows, Case c) {
    case_ = c;
    rows_ = rows;
    row_stride_ = (rows + 3) / 4 * 4 + 4;
    blocks_ = (c.n + 127) / 128;
    const size_t groups = static_cast<size_t>(c.k / 128);
    codes_ = random_codes(static_cast<size_t>(rows) * c.k, 1);
    scales_ = random_scales(static_cast<size_t>(row_stride_) * groups, 2, c.powers_of_two);
    weights_ = random_codes(static_cast<size_t>(experts) * c.n * c.k, 3);
    weight_scales_ =
        random_scales(static_cast<size_t>(experts) * blocks_ * groups, 4, c.powers_of_two);
    table_.resize(256);
    for (int i = 0; i < 256; ++i) table_[i] = fp8_to_float(static_cast<uint8_t>(i));
  }

  struct Sum {
    double exact = 0, magnitude = 0;
  };
  Sum sum(int expert, int row, int column) const {
    const uint8_t* a = &codes_[static_cast<size_t>(row) * case_.k];
    const uint8_t* b = &weights_[(static_cast<size_t>(expert) * case_.n + column) * case_.k];
    const int groups = case_.k / 128;
    Sum s;
    for (int g = 0; g < groups; ++g) {
      double part = 0, part_magnitude = 0;
      for (int i = g * 128; i < (g + 1) * 128; ++i) {
        const double v = static_cast<double>(table_[a[i]]) * table_[b[i]];
        part += v;
        part_magnitude += std::abs(v);
      }
      const double scale =
          static_cast<double>(scales_[g * row_stride_ + row]) *
          weight_scales_[(static_cast<size_t>(expert) * blocks_ + column / 128) * groups + g];
      s.exact += part * scale;
      s.magnitude += part_magnitude * scale;
    }
    return s;
  }
  static double bound(const Sum& s, int k, bool f32) {
    return (f32 ? f32_bound(s.exact, s.magnitude, k) : bf16_bound(s.exact, s.magnitude, k)) +
           s.magnitude * kPartialError;
  }

  // Rows to look at: all of a few, else both sides of every tile border and a sample.
  static std::vector<int> some(int count) {
    std::vector<int> v;
    for (int i = 0; i < count; ++i)
      if (count <= 80 || i % 64 < 2 || i % 64 > 61 || i % 37 == 0 || i + 3 > count) v.push_back(i);
    if (v.size() > 100) {
      std::vector<int> fewer;
      for (size_t i = 0; i < v.size(); i += v.size() / 70) fewer.push_back(v[i]);
      fewer.push_back(count - 1);
      v = fewer;
    }
    return v;
  }

  // out[row, column] for row in [begin, end) of one expert.
  template <class Value>
  void compare(int expert, int begin, int end, bool f32, Value&& value) {
    const std::vector<int> rows = some(end - begin), columns = some(case_.n);
    std::vector<std::string> wrong(rows.size());
    parallel(static_cast<int64_t>(rows.size()), [&](int64_t i) {
      const int row = begin + rows[static_cast<size_t>(i)];
      for (int column : columns) {
        const Sum want = sum(expert, row, column);
        const double got = value(row, column), limit = bound(want, case_.k, f32);
        if (!(std::abs(got - want.exact) <= limit) && wrong[static_cast<size_t>(i)].empty())
          wrong[static_cast<size_t>(i)] =
              "expert " + std::to_string(expert) + " row " + std::to_string(row) + " column " +
              std::to_string(column) + ": " + std::to_string(got) + ", exact " +
              std::to_string(want.exact) + ", bound " + std::to_string(limit);
      }
    });
    int shown = 0;
    for (const std::string& w : wrong)
      if (!w.empty() && ++shown <= 3) ADD_FAILURE() << w;
  }

  Case case_{};
  int rows_ = 0, blocks_ = 0;
  int64_t row_stride_ = 0;
  std::vector<uint8_t> codes_, weights_;
  std::vector<float> scales_, weight_scales_, table_;
};

constexpr int kGuard = 3;  // rows behind the last that must stay as they were

TEST_F(Fp8ManyTest, DenseEveryTile) {
  const Case cases[] = {{128, 128, true},  {576, 1536, true}, {2112, 384, false},
                        {2240, 256, true}, {72, 7168, false}, {320, 16384, true}};
  const int row_counts[] = {1, 63, 64, 65, 127, 128, 129, 257, 513};
  int turn = 0;
  for (const Case& c : cases) {
    prepare(1, 513, c);
    const DeviceArray<uint8_t> codes(codes_), weights(weights_);
    const DeviceArray<float> scales(scales_), weight_scales(weight_scales_);
    for (int rows : {row_counts[turn % 9], row_counts[(turn + 4) % 9], 513}) {
      ++turn;
      const int64_t stride = (c.n + 7) / 8 * 8 + 8;
      std::vector<uint16_t> first;
      for (int tile = 0; tile < kManyTiles; ++tile) {
        SCOPED_TRACE("rows " + std::to_string(rows) + " n " + std::to_string(c.n) + " k " +
                     std::to_string(c.k) + " tile " + std::to_string(tile));
        const DeviceArray<uint16_t> out(static_cast<size_t>((rows + kGuard) * stride));
        Fp8GemmParams p;
        p.a = {codes.data(), scales.data(), rows, c.k, row_stride_};
        p.b = {weights.data(), weight_scales.data(), c.n, c.k, c.k / 128};
        p.out[0] = {out.data(), stride, 0, c.n, false};
        p.segments = 1;
        fp8_gemm_many_as(plan_many_as(static_cast<ManyTile>(tile), rows, c.n, c.k, launch.sms), p,
                         launch);
        synchronize();
        const std::vector<uint16_t> got = out.download();
        int outside = 0;
        for (int64_t r = 0; r < rows + kGuard; ++r)
          for (int64_t i = 0; i < stride; ++i)
            outside +=
                (r >= rows || i >= c.n) && got[static_cast<size_t>(r * stride + i)] != 0xFFFF;
        EXPECT_EQ(outside, 0);
        // Every tile adds in the same order, so only the first needs the float64 sum.
        if (tile == 0) {
          first = got;
          compare(0, 0, rows, false, [&](int row, int column) {
            return to_float(Bf16{got[static_cast<size_t>(row * stride + column)]});
          });
        } else {
          EXPECT_TRUE(first == got);
        }
      }
    }
  }
}

TEST_F(Fp8ManyTest, BitsDoNotDependOnTheNumberOfRows) {
  const Case c{4096, 7168, true};
  const int rows = 4096;
  prepare(1, rows, c);
  const DeviceArray<uint8_t> codes(codes_), weights(weights_);
  const DeviceArray<float> scales(scales_), weight_scales(weight_scales_);
  std::vector<uint16_t> whole;
  for (int m : {rows, rows, 1500, 300, 129, 1}) {
    const DeviceArray<uint16_t> out(static_cast<size_t>(m) * c.n);
    Fp8GemmParams p;
    p.a = {codes.data(), scales.data(), m, c.k, row_stride_};
    p.b = {weights.data(), weight_scales.data(), c.n, c.k, c.k / 128};
    p.out[0] = {out.data(), c.n, 0, c.n, false};
    p.segments = 1;
    fp8_gemm_many(p, launch);
    synchronize();
    const std::vector<uint16_t> got = out.download();
    if (whole.empty()) {
      whole = got;
      compare(0, 0, rows, false, [&](int row, int column) {
        return to_float(Bf16{got[static_cast<size_t>(row) * c.n + column]});
      });
    } else {
      EXPECT_EQ(std::memcmp(whole.data(), got.data(), got.size() * 2), 0) << m << " rows";
    }
  }
}

TEST_F(Fp8ManyTest, SeveralOutputs) {
  const Case c{2240, 512, true};
  const int rows = 200;
  prepare(1, rows, c);
  const DeviceArray<uint8_t> codes(codes_), weights(weights_);
  const DeviceArray<float> scales(scales_), weight_scales(weight_scales_);
  // Borders are multiples of 64; the first lies inside of every tile that is wider.
  for (int tile = 0; tile < kManyTiles; ++tile) {
    const DeviceArray<uint16_t> low(rows * 1472), key(rows * 640);
    const DeviceArray<float> rest(rows * 128);
    Fp8GemmParams p;
    p.a = {codes.data(), scales.data(), rows, c.k, row_stride_};
    p.b = {weights.data(), weight_scales.data(), c.n, c.k, c.k / 128};
    p.out[0] = {low.data(), 1472, 0, 1472, false};
    p.out[1] = {key.data(), 640, 1472, 2112, false};
    p.out[2] = {rest.data(), 128, 2112, 2240, true};
    p.segments = 3;
    fp8_gemm_many_as(plan_many_as(static_cast<ManyTile>(tile), rows, c.n, c.k, launch.sms), p,
                     launch);
    synchronize();
    const std::vector<uint16_t> got_low = low.download(), got_key = key.download();
    const std::vector<float> got_rest = rest.download();
    compare(0, 0, rows, false, [&](int row, int column) -> double {
      if (column < 1472) return to_float(Bf16{got_low[static_cast<size_t>(row * 1472 + column)]});
      if (column < 2112)
        return to_float(Bf16{got_key[static_cast<size_t>(row * 640 + column - 1472)]});
      return got_rest[static_cast<size_t>(row * 128 + column - 2112)];
    });
  }
}

TEST_F(Fp8ManyTest, GroupedRaggedRows) {
  struct Grouped {
    Case c;
    std::vector<int> counts;
    int spare;  // rows after the last expert's
  };
  std::vector<int> many(256, 0);
  for (size_t e = 0; e < many.size(); ++e) many[e] = static_cast<int>(e * e % 7);
  const Grouped cases[] = {
      {{256, 256, true}, {1}, 0},
      {{576, 640, false}, {0, 3, 0, 64, 65, 127, 128, 129, 200, 257, 300, 0}, 37},
      {{136, 384, true}, {5, 0, 700, 1}, 8},
      {{512, 256, true}, std::vector<int>(12, 0), 64},
      {{128, 128, true}, many, 5},
      {{4096, 7168, true}, {130, 70, 0, 1, 255, 40}, 100},
      {{7168, 2048, true}, {31, 0, 257, 66}, 0},
  };
  for (const Grouped& g : cases) {
    const int experts = static_cast<int>(g.counts.size());
    std::vector<int32_t> offsets{0};
    for (int rows : g.counts) offsets.push_back(offsets.back() + rows);
    const int live = offsets.back(), rows = live + g.spare;
    SCOPED_TRACE("experts " + std::to_string(experts) + " rows " + std::to_string(live) + " n " +
                 std::to_string(g.c.n));
    prepare(experts, rows, g.c);
    const DeviceArray<uint8_t> codes(codes_), weights(weights_);
    const DeviceArray<float> scales(scales_), weight_scales(weight_scales_);
    const DeviceArray<int32_t> device_offsets(offsets);
    const DeviceArray<uint16_t> out(static_cast<size_t>(rows + kGuard) * g.c.n);
    std::vector<uint16_t> got, again;
    for (std::vector<uint16_t>* result : {&got, &again}) {
      fill_bytes(out.data(), 0xFF, out.size() * 2);
      Fp8GroupedParams p;
      p.a = {codes.data(), scales.data(), rows, g.c.k, row_stride_};
      p.codes = weights.data();
      p.scales = weight_scales.data();
      p.experts = experts;
      p.n = g.c.n;
      p.k = g.c.k;
      p.offsets = device_offsets.data();
      p.out = reinterpret_cast<Bf16*>(out.data());
      p.out_stride = g.c.n;
      p.tokens = std::max(live, 1);
      fp8_grouped_many(p, launch);
      synchronize();
      *result = out.download();
    }
    EXPECT_TRUE(got == again);
    const auto tail = got.begin() + int64_t{live} * g.c.n;
    EXPECT_TRUE(std::all_of(tail, got.end(), [](uint16_t v) { return v == 0xFFFF; }));
    for (int e = 0; e < experts; ++e)
      compare(e, offsets[static_cast<size_t>(e)], offsets[static_cast<size_t>(e) + 1], false,
              [&](int row, int column) {
                return to_float(Bf16{got[static_cast<size_t>(row) * g.c.n + column]});
              });
  }
}

// Plans are host code: no GPU needed.
TEST(Fp8ManyPlan, CoversTheProduct) {
  for (int rows : {1, 64, 129, 256, 512, 4096, 100000})
    for (int n : {8, 576, 2112, 7168, 36864}) {
      const ManyPlan plan = plan_many(rows, n, 7168, 132);
      const ManyTileShape s = shape_of(plan.tile);
      EXPECT_GE(plan.row_units * s.rows_apart * s.rows, rows);
      EXPECT_GE(plan.column_units * s.columns_apart * s.columns, n);
      EXPECT_GE(plan.ctas, 1);
      EXPECT_LE(plan.ctas, 132);
      EXPECT_EQ(plan.ctas % (s.rows_apart * s.columns_apart), 0);
    }
}

TEST(Fp8ManyPlan, RefusesWhatItDoesNotTake) {
  Fp8GroupedParams p;
  p.a = {nullptr, nullptr, 4, 256, 4};
  p.experts = 4;
  p.n = 128;
  p.k = 256;
  p.out_stride = 128;
  EXPECT_NO_THROW(check_many(p));
  p.n = 132;
  EXPECT_ANY_THROW(check_many(p));
  p.n = 128;
  p.k = p.a.k = 200;
  EXPECT_ANY_THROW(check_many(p));
}

}  // namespace
}  // namespace fathom::cuda
