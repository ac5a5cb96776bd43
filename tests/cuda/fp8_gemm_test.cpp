// FP8 products through the front: values against float64, bits against themselves (runs, batch
// sizes, kernels), and nothing written outside the output.
#include "kernels/cuda/gemm/fp8_gemm.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "cuda/support.h"
#include "kernels/cuda/gemm/fp8_few.h"
#include "kernels/cuda/gemm/fp8_many.h"

namespace fathom::cuda {
namespace {

// The tensor core adds the products of a slice with about 14 bits below the greatest of them and
// drops the rest; the slices are then added in float32. Relative to the sum of absolute products.
constexpr double kSliceError = 0x1p-12;

double bound(double exact, double magnitude, int slices, bool f32) {
  return magnitude * (kSliceError + slices * 0x1p-24) + (f32 ? 0.0 : std::abs(exact) * 0x1p-8);
}

// Activations and the weights of one or more experts, on both sides.
struct Inputs {
  Inputs(int all_rows, int all_experts, int width, int depth, bool powers_of_two)
      : rows(all_rows),
        experts(all_experts),
        n(width),
        k(depth),
        slices(depth / 128),
        scale_stride((all_rows + 3) / 4 * 4),
        a(random_codes(size_t(rows) * k, 1)),
        w(random_codes(size_t(experts) * n * k, 2)),
        a_scales(random_scales(size_t(scale_stride) * slices, 3, powers_of_two)),
        w_scales(random_scales(size_t(experts) * ((n + 127) / 128) * slices, 4, powers_of_two)),
        device_a(a),
        device_w(w),
        device_a_scales(a_scales),
        device_w_scales(w_scales) {}

  Fp8Rows fp8_rows(int first_rows) const {
    return {device_a.data(), device_a_scales.data(), first_rows, k, scale_stride};
  }
  Fp8Matrix matrix() const { return {device_w.data(), device_w_scales.data(), n, k, k / 128}; }

  struct Value {
    double exact = 0, magnitude = 0;
  };
  Value value(int row, int expert, int column) const {
    static const std::vector<float> decoded = [] {
      std::vector<float> v(256);
      for (int c = 0; c < 256; ++c) v[c] = fp8_to_float(static_cast<uint8_t>(c));
      return v;
    }();
    const uint8_t* x = a.data() + size_t(row) * k;
    const uint8_t* y = w.data() + (size_t(expert) * n + column) * k;
    const float* y_scales =
        w_scales.data() + (size_t(expert) * ((n + 127) / 128) + column / 128) * (k / 128);
    Value v;
    for (int g = 0; g < k / 128; ++g) {
      double sum = 0, size = 0;
      for (int i = 128 * g; i < 128 * g + 128; ++i) {
        double product = double(decoded[x[i]]) * decoded[y[i]];
        sum += product;
        size += std::abs(product);
      }
      double scale = double(a_scales[size_t(g) * scale_stride + row]) * y_scales[g];
      v.exact += scale * sum;
      v.magnitude += scale * size;
    }
    return v;
  }

  int rows, experts, n, k, slices;
  int64_t scale_stride;
  std::vector<uint8_t> a, w;
  std::vector<float> a_scales, w_scales;
  DeviceArray<uint8_t> device_a, device_w;
  DeviceArray<float> device_a_scales, device_w_scales;
};

// Up to about `limit` of `count` indices: both ends and evenly between, with an odd step so that
// every residue of the tiles comes up.
std::vector<int> sample(int count, int limit) {
  std::vector<int> picked;
  int step = std::max(1, count / limit) | 1;
  for (int i = 0; i < count; i += step) picked.push_back(i);
  if (picked.back() != count - 1) picked.push_back(count - 1);
  return picked;
}

class Fp8GemmTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (!IsSkipped()) give_workspace(fp8_gemm_workspace(4096, 512));
  }

  // Rows in segments that end at `ends`; the second one, if any, is float32.
  void check_dense(int rows, int n, int k, std::vector<int> ends, bool powers_of_two = true) {
    SCOPED_TRACE(testing::Message() << rows << " rows, n " << n << ", k " << k);
    Inputs in(rows, 1, n, k, powers_of_two);
    std::vector<std::vector<uint8_t>> first;
    for (int run = 0; run < 2; ++run) {
      Fp8GemmParams p;
      p.a = in.fp8_rows(rows);
      p.b = in.matrix();
      p.segments = static_cast<int>(ends.size());
      std::vector<DeviceArray<uint8_t>> out;
      int begin = 0;
      for (size_t s = 0; s < ends.size(); ++s) {
        bool f32 = s == 1;
        int64_t stride = ends[s] - begin + 16;  // room after each row, to see it left alone
        out.emplace_back(size_t(rows) * stride * (f32 ? 4 : 2));
        p.out[s] = {out.back().data(), stride, begin, ends[s], f32};
        begin = ends[s];
      }
      launch.pdl = run == 0;
      fp8_gemm(p, launch);
      synchronize();
      for (size_t s = 0; s < ends.size(); ++s) {
        std::vector<uint8_t> got = out[s].download();
        if (run == 0) {
          check_segment(in, p.out[s], got);
          first.push_back(got);
        } else {
          EXPECT_TRUE(got == first[s]) << "segment " << s << " differs between two runs";
        }
      }
    }
  }

  static float element(const std::vector<uint8_t>& bytes, int64_t i, bool f32) {
    if (f32) {
      float v;
      std::memcpy(&v, bytes.data() + 4 * i, 4);
      return v;
    }
    Bf16 v;
    std::memcpy(&v, bytes.data() + 2 * i, 2);
    return to_float(v);
  }

  static void check_segment(const Inputs& in, const OutSegment& out,
                            const std::vector<uint8_t>& got) {
    const int width = out.n_end - out.n_begin, size = out.f32 ? 4 : 2;
    std::vector<int> rows = sample(in.rows, 40), columns = sample(width, 150);
    std::vector<int> bad(rows.size(), 0);
    parallel(static_cast<int64_t>(rows.size()), [&](int64_t i) {
      for (int c : columns) {
        Inputs::Value want = in.value(rows[i], 0, out.n_begin + c);
        float value = element(got, rows[i] * out.stride + c, out.f32);
        double error = std::abs(value - want.exact);
        bad[i] += !(error <= bound(want.exact, want.magnitude, in.k / 128, out.f32));
      }
    });
    for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(bad[i], 0) << "row " << rows[i];
    int missing = 0, touched = 0;
    for (int64_t r = 0; r < in.rows; ++r)
      for (int64_t c = 0; c < out.stride; ++c) {
        float value = element(got, r * out.stride + c, out.f32);
        if (c < width)
          missing += std::isnan(value);
        else
          for (int b = 0; b < size; ++b) touched += got[(r * out.stride + c) * size + b] != 0xFF;
      }
    EXPECT_EQ(missing, 0) << "results not written";
    EXPECT_EQ(touched, 0) << "bytes written beyond the segment";
  }

  void check_grouped(const std::vector<int>& counts, int spare_rows, int n, int k) {
    const int experts = static_cast<int>(counts.size());
    std::vector<int32_t> offsets = {0};
    for (int c : counts) offsets.push_back(offsets.back() + c);
    const int live = offsets.back(), rows = live + spare_rows;
    SCOPED_TRACE(testing::Message()
                 << experts << " experts, " << live << " rows, n " << n << ", k " << k);
    Inputs in(rows, experts, n, k, true);
    DeviceArray<int32_t> device_offsets(offsets);
    const int64_t stride = n + 8;
    std::vector<Bf16> first;
    for (int run = 0; run < 2; ++run) {
      DeviceArray<Bf16> out(size_t(rows) * stride);
      Fp8GroupedParams p;
      p.a = in.fp8_rows(rows);
      p.codes = in.device_w.data();
      p.scales = in.device_w_scales.data();
      p.experts = experts;
      p.n = n;
      p.k = k;
      p.offsets = device_offsets.data();
      p.out = out.data();
      p.out_stride = stride;
      p.tokens = std::max(1, *std::max_element(counts.begin(), counts.end()));
      launch.pdl = run == 0;
      fp8_grouped_gemm(p, launch);
      synchronize();
      std::vector<Bf16> got = out.download();
      if (run == 1) {
        EXPECT_EQ(std::memcmp(got.data(), first.data(), got.size() * 2), 0) << "runs differ";
        continue;
      }
      first = got;
      int touched = 0;
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = r < live ? n : 0; c < stride; ++c)
          touched += got[r * stride + c].bits != 0xFFFF;
      EXPECT_EQ(touched, 0) << "elements written outside the live rows";
      std::vector<int> columns = sample(n, 60);
      std::vector<int> bad(live + 1, 0);
      parallel(live, [&](int64_t r) {
        int e = static_cast<int>(std::upper_bound(offsets.begin(), offsets.end(), r) -
                                 offsets.begin()) -
                1;
        for (int c : columns) {
          Inputs::Value want = in.value(static_cast<int>(r), e, c);
          double error = std::abs(to_float(got[r * stride + c]) - want.exact);
          bad[r] += !(error <= bound(want.exact, want.magnitude, k / 128, false));
        }
      });
      for (int r = 0; r < live; ++r) EXPECT_EQ(bad[r], 0) << "row " << r;
    }
  }

  std::vector<Bf16> product(const Inputs& in, int first_row, int rows) {
    DeviceArray<Bf16> out(size_t(rows) * in.n);
    // A copy, since rows must start at a multiple of 16 bytes of the scales.
    DeviceArray<float> scales(size_t(in.k / 128) * ((rows + 3) / 4 * 4));
    std::vector<float> host(scales.size());
    for (int g = 0; g < in.k / 128; ++g)
      for (int r = 0; r < rows; ++r)
        host[size_t(g) * ((rows + 3) / 4 * 4) + r] =
            in.a_scales[size_t(g) * in.scale_stride + first_row + r];
    scales.upload(host);
    Fp8GemmParams p;
    p.a = {in.device_a.data() + size_t(first_row) * in.k, scales.data(), rows, in.k,
           (rows + 3) / 4 * 4};
    p.b = in.matrix();
    p.segments = 1;
    p.out[0] = {out.data(), in.n, 0, in.n, false};
    fp8_gemm(p, launch);
    synchronize();
    return out.download();
  }
};

TEST_F(Fp8GemmTest, EveryTileOfTokens) {
  for (int rows : {1, 2, 7, 8, 9, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 300})
    check_dense(rows, 576, 1536, {512, 576}, rows % 2 == 0);
}

TEST_F(Fp8GemmTest, RealShapes) {
  for (int rows : {1, 5, 64, 128}) {
    check_dense(rows, 2112, 7168, {1536, 2112});
    check_dense(rows, 8192, 1536, {8192});
    check_dense(rows, 32768, 512, {32768});
    check_dense(rows, 7168, 2048, {7168});
  }
  check_dense(3, 7168, 16384, {7168});
  check_dense(4096, 2112, 7168, {1536, 2112});
}

TEST_F(Fp8GemmTest, HostileWidths) {
  for (int n : {8, 56, 64, 72, 120, 128, 136, 2240})
    for (int k : {128, 384, 640})
      for (int rows : {1, 37, 130}) check_dense(rows, n, k, {n}, false);
  check_dense(12, 320, 256, {64, 128, 192, 320});
}

TEST_F(Fp8GemmTest, NoRowsLaunchNothing) {
  Inputs in(1, 1, 128, 128, true);
  Fp8GemmParams p;
  p.a = in.fp8_rows(0);
  p.b = in.matrix();
  fp8_gemm(p, launch);
}

TEST_F(Fp8GemmTest, RefusesWhatItCannotDo) {
  Inputs in(2, 1, 128, 256, true);
  DeviceArray<Bf16> out(512);
  Fp8GemmParams good;
  good.a = in.fp8_rows(2);
  good.b = in.matrix();
  good.segments = 1;
  good.out[0] = {out.data(), 128, 0, 128, false};
  fp8_gemm(good, launch);
  Fp8GemmParams bad = good;
  bad.b.k = bad.a.k = 192;
  EXPECT_THROW(fp8_gemm(bad, launch), Error);
  bad = good;
  bad.b.n = 100;
  EXPECT_THROW(fp8_gemm(bad, launch), Error);
  bad = good;
  bad.out[0].n_end = 64;
  EXPECT_THROW(fp8_gemm(bad, launch), Error);
  bad = good;
  bad.a.scale_stride = 6;
  EXPECT_THROW(fp8_gemm(bad, launch), Error);
}

// What a plan promises to the kernel; needs no GPU.
TEST(FewPlanTest, FitsTheProcessor) {
  constexpr size_t kMost = 227 * 1024;
  for (int k : {128, 256, 1536, 7168, 18432})
    for (int n : {8, 64, 72, 576, 2112, 7168, 36864})
      for (int rows : {1, 8, 9, 64, 65, 128})
        for (bool invariant : {false, true}) {
          FewPlan plan = plan_few_dense(rows, n, k, 132, invariant);
          EXPECT_GE(plan.tokens, rows);
          EXPECT_LE(plan.splits, invariant ? 1 : k / 128) << "n " << n << ", k " << k;
          EXPECT_EQ(plan.ctas, (n + 64 * plan.groups - 1) / (64 * plan.groups) * plan.splits);
          EXPECT_GE(plan.stages, 1);
          EXPECT_EQ(plan.smem, few_smem(plan, 0));
          EXPECT_LE(plan.smem, kMost);
        }
  for (int experts : {1, 12, 256, kFewExperts})
    for (int tokens : {1, 8, 9, 40, 4096}) {
      FewPlan plan = plan_few_grouped(8 * tokens, tokens, experts, 4096, 132);
      EXPECT_EQ(plan.splits, 1);
      EXPECT_GE(plan.ctas, 1);
      EXPECT_GE(plan.stages, 2);
      EXPECT_EQ(plan.smem, few_smem(plan, experts));
      EXPECT_LE(plan.smem, kMost);
    }
}

// Both kernels, all tile sizes: a row has the same bits in every batch.
TEST_F(Fp8GemmTest, BatchInvariant) {
  launch.batch_invariant = true;
  for (auto [n, k] : {std::pair{2112, 7168}, std::pair{7168, 2048}, std::pair{576, 512}}) {
    Inputs in(1024, 1, n, k, false);
    std::vector<Bf16> all = product(in, 0, 1024);
    for (int rows : {1, 3, 9, 24, 50, 100, 128, 129, 257, 600}) {
      const int first = 1024 - 600 - (600 - rows) % 7;
      std::vector<Bf16> some = product(in, first, rows);
      EXPECT_EQ(std::memcmp(some.data(), all.data() + size_t(first) * n, some.size() * 2), 0)
          << rows << " rows, n " << n << ", k " << k;
    }
  }
}

TEST_F(Fp8GemmTest, GroupedFewRows) {
  check_grouped({1}, 0, 72, 256);
  check_grouped({1, 1, 1, 1, 1, 1, 1, 1}, 0, 4096, 7168);
  check_grouped({0, 3, 0, 0, 9, 33, 0, 1, 0, 17, 16, 0}, 5, 576, 384);
  check_grouped({0, 0, 0}, 4, 128, 128);
  std::vector<int> counts(256);
  for (int e = 0; e < 256; ++e) counts[e] = e * 7919 % 5;
  check_grouped(counts, 3, 256, 2048);
}

TEST_F(Fp8GemmTest, GroupedManyRows) {
  check_grouped({300, 0, 1, 127, 128, 129, 0, 64, 65, 3, 0, 77}, 9, 320, 512);
  check_grouped({700, 0, 1, 400, 129, 64}, 9, 320, 512);
  check_grouped({1000, 24}, 0, 4096, 1024);
}

// The kernels behind the front agree bit for bit, so crossing from one to the other changes
// nothing.
TEST_F(Fp8GemmTest, GroupedKernelsAgree) {
  const int n = 576, k = 1536;
  std::vector<int> counts = {0, 3, 70, 128, 1, 0, 200, 8};
  std::vector<int32_t> offsets = {0};
  for (int c : counts) offsets.push_back(offsets.back() + c);
  const int rows = offsets.back();
  Inputs in(rows, 8, n, k, false);
  DeviceArray<int32_t> device_offsets(offsets);
  DeviceArray<Bf16> many(size_t(rows) * n), few(size_t(rows) * n);
  Fp8GroupedParams p;
  p.a = in.fp8_rows(rows);
  p.codes = in.device_w.data();
  p.scales = in.device_w_scales.data();
  p.experts = 8;
  p.n = n;
  p.k = k;
  p.offsets = device_offsets.data();
  p.out_stride = n;
  p.tokens = 200;
  p.out = many.data();
  fp8_grouped_many(p, launch);
  synchronize();
  std::vector<Bf16> want = many.download();
  for (int tokens : {8, 16, 32, 64, 128}) {
    p.out = few.data();
    few.poison();
    FewPlan plan = plan_few_grouped(rows, 200, 8, n, launch.sms);
    plan.tokens = tokens;
    plan.stages = 3;
    plan.smem = few_smem(plan, 8);
    fp8_grouped_few(p, plan, launch);
    synchronize();
    std::vector<Bf16> got = few.download();
    EXPECT_EQ(std::memcmp(got.data(), want.data(), got.size() * 2), 0) << "tiles of " << tokens;
  }
}

}  // namespace
}  // namespace fathom::cuda
