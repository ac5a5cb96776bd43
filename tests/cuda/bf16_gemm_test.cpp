// bf16 products on the GPU against float64: every kernel shape and split, hostile sizes, strides,
// output segments; equal bits between runs, between kernel shapes, and for any number of rows.
#include <fmt/format.h>

#include <atomic>
#include <cstdint>
#include <string>

#include "kernels/cuda/gemm/bf16_work.h"
#include "numerics/fp8.h"
#include "support.h"

namespace fathom::cuda {
namespace {

using Bf16GemmTest = GpuTest;

// Values of about normal size from a hash: fast enough for real shapes.
std::vector<Bf16> quick_bf16(size_t n, uint64_t seed) {
  std::vector<Bf16> v(n);
  constexpr size_t kChunk = 1 << 16;
  parallel(static_cast<int64_t>((n + kChunk - 1) / kChunk), [&](int64_t c) {
    const size_t begin = static_cast<size_t>(c) * kChunk;
    uint64_t x = (seed + 1) * 0x9E3779B97F4A7C15ull + begin;
    for (size_t i = begin; i < std::min(n, begin + kChunk); ++i) {
      x ^= x >> 12, x ^= x << 25, x ^= x >> 27;
      const auto r = static_cast<int32_t>((x * 0x2545F4914F6CDD1Dull) >> 32);
      v[i] = to_bf16(static_cast<float>(r) * 0x1p-30f);
    }
  });
  return v;
}

struct GemmCase {
  int rows, n, k, batch = 1;
  bool f32 = false;
  bool heads = false;  // batches are slices of a row, as attention heads are
  int segments = 1;
  int pad = 0;  // elements between the rows of the output and, in multiples of 8, of a
};

std::string name_of(const GemmCase& c) {
  return fmt::format("rows {} n {} k {} batch {}{}{} segments {} pad {}", c.rows, c.n, c.k, c.batch,
                     c.f32 ? " f32" : "", c.heads ? " heads" : "", c.segments, c.pad);
}
std::string name_of(const Bf16Plan& p) {
  return fmt::format("{} {} tokens {} splits {} stages {} grid {}", p.shape.warpgroups,
                     p.shape.n_rows, p.shape.tokens_m ? "m" : "n", p.splits, p.stages, p.grid);
}

// Operands of a case on both sides, and where outputs lie.
struct Operands {
  explicit Operands(const GemmCase& chosen)
      : c(chosen),
        a_stride((c.heads ? int64_t{c.batch} * (c.k + 64) : c.k) + c.pad / 8 * 8),
        a_batch(c.heads ? c.k + 64 : a_stride * c.rows),
        a(quick_bf16(static_cast<size_t>(c.heads ? a_stride * c.rows : a_batch * c.batch), 1)),
        b(quick_bf16(static_cast<size_t>(c.batch) * c.n * c.k, 2)),
        device_a(a),
        device_b(b) {
    params.a = device_a.data();
    params.a_stride = a_stride;
    params.a_batch_stride = a_batch;
    params.rows = c.rows;
    params.b = device_b.data();
    params.b_batch_stride = int64_t{c.n} * c.k;
    params.n = c.n;
    params.k = c.k;
    params.batch = c.batch;
    params.segments = c.segments;
    // One buffer a segment, two guard rows behind it; a batch of heads shares its rows.
    for (int s = 0; s < c.segments; ++s) {
      const int begin = c.n * s / c.segments, end = c.n * (s + 1) / c.segments;
      const bool f32 = c.segments > 1 ? s % 2 == 1 : c.f32;
      const int64_t stride = (c.heads ? int64_t{c.batch} * c.n : end - begin) + c.pad;
      params.out_batch_stride = c.heads ? c.n : stride * c.rows;
      const int64_t count =
          c.heads ? stride * (c.rows + 2) : stride * (int64_t{c.rows} * c.batch + 2);
      buffers.emplace_back(static_cast<size_t>(count) * (f32 ? 2 : 1));
      params.out[s] = {buffers.back().data(), stride, begin, end, f32};
    }
  }

  double exact(int batch, int row, int col, double& magnitude) const {
    const Bf16* x = &a[static_cast<size_t>(batch * a_batch + row * a_stride)];
    const Bf16* w = &b[(static_cast<size_t>(batch) * c.n + col) * c.k];
    double sum = 0;
    magnitude = 0;
    for (int l = 0; l < c.k; ++l) {
      const double product = static_cast<double>(to_float(x[l])) * to_float(w[l]);
      sum += product;
      magnitude += std::abs(product);
    }
    return sum;
  }

  // Words of 16 bits of all outputs.
  std::vector<std::vector<uint16_t>> outputs() const {
    std::vector<std::vector<uint16_t>> all;
    for (const auto& buffer : buffers) all.push_back(buffer.download());
    return all;
  }
  void poison() {
    for (auto& buffer : buffers) buffer.poison();
  }

  GemmCase c;
  int64_t a_stride, a_batch;
  std::vector<Bf16> a, b;
  DeviceArray<Bf16> device_a, device_b;
  std::vector<DeviceArray<uint16_t>> buffers;
  Bf16GemmParams params;
};

// Every result within its bound (a sample of a large product), everything else still poison.
void check_outputs(const Operands& s, const std::vector<std::vector<uint16_t>>& got) {
  const GemmCase& c = s.c;
  const int64_t total = int64_t{c.batch} * c.rows * c.n;
  const int64_t step = std::max<int64_t>(1, total * c.k / 40'000'000) | 1;
  std::atomic<int> bad = 0, holes = 0;
  std::vector<std::vector<bool>> written;
  for (const auto& g : got) written.emplace_back(g.size(), false);
  for (int i = 0; i < c.segments; ++i) {
    const OutSegment& o = s.params.out[i];
    const int words = o.f32 ? 2 : 1;
    for (int b = 0; b < c.batch; ++b)
      for (int r = 0; r < c.rows; ++r) {
        const int64_t at = (b * s.params.out_batch_stride + r * o.stride) * words;
        std::fill_n(written[i].begin() + at, (o.n_end - o.n_begin) * words, true);
      }
    for (size_t j = 0; j < got[i].size(); ++j)
      if (!written[i][j] && got[i][j] != 0xFFFF) ++holes;
  }
  parallel((total + step - 1) / step, [&](int64_t p) {
    const int64_t index = p * step;
    const int col = static_cast<int>(index % c.n), row = static_cast<int>(index / c.n % c.rows);
    const int batch = static_cast<int>(index / c.n / c.rows);
    int i = 0;
    while (col >= s.params.out[i].n_end) ++i;
    const OutSegment& o = s.params.out[i];
    const int64_t at = batch * s.params.out_batch_stride + row * o.stride + col - o.n_begin;
    double magnitude = 0;
    const double exact = s.exact(batch, row, col, magnitude);
    float value = 0;
    if (o.f32)
      std::memcpy(&value, &got[i][static_cast<size_t>(at) * 2], 4);
    else
      value = to_float(Bf16{got[i][static_cast<size_t>(at)]});
    const double bound =
        o.f32 ? f32_bound(exact, magnitude, c.k) : bf16_bound(exact, magnitude, c.k);
    if (!(std::abs(value - exact) <= bound) && bad++ < 4)
      ADD_FAILURE() << fmt::format("batch {} row {} col {}: {} for {}, bound {}", batch, row, col,
                                   value, exact, bound);
  });
  EXPECT_EQ(bad, 0) << "of " << (total + step - 1) / step;
  EXPECT_EQ(holes, 0) << "words written outside the output";
}

std::vector<std::vector<uint16_t>> run(Operands& s, const Bf16Plan& plan, const Launch& launch) {
  s.poison();
  bf16_gemm_with(s.params, plan, launch);
  FATHOM_CUDA(cudaStreamSynchronize(launch.stream));
  return s.outputs();
}

std::vector<Bf16Shape> dense_shapes() {
  std::vector<Bf16Shape> shapes;
  for (int warpgroups : {1, 2})
    for (int rows : {8, 16, 32, 64, 128})
      shapes.push_back({.warpgroups = warpgroups, .n_rows = rows});
  shapes.push_back({.warpgroups = 1, .n_rows = 128, .tokens_m = true});
  shapes.push_back({.warpgroups = 2, .n_rows = 128, .tokens_m = true});
  shapes.push_back({.warpgroups = 2, .n_rows = 256, .tokens_m = true});
  return shapes;
}

// The choice is plain code: every size gets a plan that fits, without a GPU.
TEST(Bf16PlanTest, FitsAndKeepsItsSplit) {
  for (int64_t n : {1, 4, 64, 129, 256, 500, 576, 2112, 7168, 24576, 129280})
    for (int64_t k : {8, 64, 72, 512, 1536, 7168, 18432})
      for (int64_t batch : {1, 3, 128}) {
        int fixed = 0;
        for (int64_t rows : {1, 7, 8, 9, 64, 65, 128, 129, 1000, 4096, 40000})
          for (bool invariant : {false, true}) {
            const Bf16Problem problem{.rows = rows, .n = n, .k = k, .batch = batch};
            const Bf16Plan p = plan_bf16(problem, 132, invariant);
            EXPECT_EQ(p.grid % p.splits, 0);
            EXPECT_GE(p.grid, 1);
            EXPECT_GE(p.stages, 1);
            EXPECT_LE(p.smem, 227 * 1024);
            EXPECT_LE(p.splits, (k + 63) / 64);
            if (!invariant) continue;
            if (fixed == 0) fixed = p.splits;
            EXPECT_EQ(p.splits, fixed) << rows << " rows of n " << n << " k " << k;
          }
      }
}

TEST_F(Bf16GemmTest, EveryShapeAndSplit) {
  for (const GemmCase& c :
       {GemmCase{.rows = 5, .n = 40, .k = 200}, GemmCase{.rows = 137, .n = 648, .k = 840},
        GemmCase{.rows = 300, .n = 576, .k = 128, .batch = 3, .heads = true}}) {
    SCOPED_TRACE(name_of(c));
    Operands s(c);
    const Bf16Problem problem{.rows = c.rows, .n = c.n, .k = c.k, .batch = c.batch};
    std::vector<std::vector<uint16_t>> whole;  // the bits of every shape that sums k in one go
    for (const Bf16Shape& shape : dense_shapes())
      for (int splits : {1, 2, 4, 8}) {
        if (splits > (c.k + 63) / 64 || (splits > 1 && shape.tokens_m)) continue;
        const Bf16Plan plan = plan_bf16_as(problem, launch.sms, shape, splits);
        SCOPED_TRACE(name_of(plan));
        const auto got = run(s, plan, launch);
        check_outputs(s, got);
        if (splits == 1) {
          if (whole.empty()) whole = got;
          EXPECT_TRUE(got == whole) << "bits differ from those of the first shape";
        }
        if (HasFailure()) return;
      }
  }
}

TEST_F(Bf16GemmTest, RealAndHostileSizes) {
  const GemmCase cases[] = {
      {.rows = 1, .n = 512, .k = 128, .batch = 128, .heads = true},  // absorb
      {.rows = 64, .n = 512, .k = 128, .batch = 16, .heads = true},
      {.rows = 4096, .n = 512, .k = 128, .batch = 4, .heads = true},
      {.rows = 1, .n = 128, .k = 512, .batch = 128, .heads = true},  // value up
      {.rows = 65, .n = 128, .k = 512, .batch = 64, .heads = true},
      {.rows = 1025, .n = 128, .k = 512, .batch = 4, .heads = true},
      {.rows = 1, .n = 256, .k = 7168, .f32 = true},  // router
      {.rows = 127, .n = 256, .k = 7168, .f32 = true},
      {.rows = 4096, .n = 256, .k = 7168, .f32 = true},
      {.rows = 3, .n = 12, .k = 256, .f32 = true},
      {.rows = 33, .n = 16, .k = 384, .f32 = true},
      {.rows = 1, .n = 64, .k = 7168, .f32 = true},  // indexer head weights
      {.rows = 128, .n = 64, .k = 7168, .f32 = true},
      {.rows = 17, .n = 4, .k = 256, .f32 = true},
      {.rows = 129, .n = 8, .k = 7168, .f32 = true, .pad = 1},  // odd output stride
      {.rows = 1, .n = 129280, .k = 256, .f32 = true},          // output head
      {.rows = 8, .n = 500, .k = 7168, .f32 = true},
      {.rows = 1, .n = 1, .k = 8},
      {.rows = 2, .n = 7, .k = 72, .pad = 8},
      {.rows = 1, .n = 2112, .k = 7168, .segments = 2},  // projections
      {.rows = 64, .n = 2112, .k = 7168, .segments = 3, .pad = 8},
      {.rows = 127, .n = 7168, .k = 2048},
      {.rows = 128, .n = 7168, .k = 2048},
      {.rows = 129, .n = 7168, .k = 2048},
      {.rows = 513, .n = 2240, .k = 1536, .segments = 4},
      {.rows = 4096, .n = 4096, .k = 7168},
      {.rows = 2047, .n = 1000, .k = 1544, .pad = 40},
  };
  for (const GemmCase& c : cases) {
    Operands s(c);
    const Bf16Problem problem{.rows = c.rows, .n = c.n, .k = c.k, .batch = c.batch};
    for (bool invariant : {false, true}) {
      const Bf16Plan plan = plan_bf16(problem, launch.sms, invariant);
      SCOPED_TRACE(name_of(c) + ": " + name_of(plan));
      launch.batch_invariant = invariant;
      s.poison();
      bf16_gemm(s.params, launch);
      synchronize();
      const auto got = s.outputs();
      check_outputs(s, got);
      EXPECT_TRUE(run(s, plan, launch) == got) << "a second run has other bits";
      if (HasFailure()) return;
    }
  }
}

// Codes are the host's of the bf16 results, with and without those, from every shape that writes
// them; scales that are no powers of two, too.
TEST_F(Bf16GemmTest, CodesOfTheResults) {
  for (int rows : {1, 5, 16, 33, 130, 700}) {
    const GemmCase c{.rows = rows, .n = 128, .k = 512, .batch = 5, .heads = true};
    Operands s(c);
    const Bf16Problem problem{.rows = c.rows, .n = c.n, .k = c.k, .batch = c.batch};
    const size_t width = static_cast<size_t>(c.batch) * 128;
    const int64_t stride = (rows + 3) / 4 * 4;
    for (const Bf16Shape& shape : dense_shapes())
      for (bool ue8m0 : {true, false}) {
        if (!bf16_codes_shape(shape)) continue;
        const Bf16Plan plan = plan_bf16_as(problem, launch.sms, shape, 1);
        SCOPED_TRACE(name_of(c) + ": " + name_of(plan));
        DeviceArray<uint8_t> codes(static_cast<size_t>(rows) * width);
        DeviceArray<float> scales(static_cast<size_t>(c.batch * stride));
        s.params.segments = 1;
        s.params.coded = {codes.data(), scales.data(), static_cast<int64_t>(width), stride, ue8m0};
        const auto got = run(s, plan, launch);
        const std::vector<uint8_t> got_codes = codes.download();
        const std::vector<float> got_scales = scales.download();
        int bad = 0;
        for (int r = 0; r < rows; ++r)
          for (int b = 0; b < c.batch; ++b) {
            float top = 0;
            auto value = [&](int i) {
              return to_float(Bf16{got[0][static_cast<size_t>(b * s.params.out_batch_stride +
                                                              r * s.params.out[0].stride + i)]});
            };
            for (int i = 0; i < 128; ++i) top = std::fmax(top, std::fabs(value(i)));
            const float scale = group_scale(top, ue8m0);
            bad += bits_of(got_scales[static_cast<size_t>(b * stride + r)]) != bits_of(scale);
            for (int i = 0; i < 128; ++i)
              bad += got_codes[static_cast<size_t>(r) * width + static_cast<size_t>(b * 128 + i)] !=
                     quantise(value(i), scale);
          }
        EXPECT_EQ(bad, 0) << (ue8m0 ? "powers of two" : "any scale");
        codes.poison();
        scales.poison();
        s.params.segments = 0;
        s.poison();
        bf16_gemm_with(s.params, plan, launch);
        synchronize();
        EXPECT_TRUE(codes.download() == got_codes) << "codes alone";
        EXPECT_EQ(std::memcmp(scales.download().data(), got_scales.data(), got_scales.size() * 4),
                  0);
        const auto left = s.outputs();
        for (uint16_t word : left[0]) bad += word != 0xFFFF;
        EXPECT_EQ(bad, 0) << "bf16 written where codes alone are wanted";
        s.params.coded = {};
        s.params.segments = 1;
        if (HasFailure()) return;
      }
  }
}

// With batch_invariant a row's bits are the same alone and among any number of others.
TEST_F(Bf16GemmTest, RowsDoNotDependOnTheBatch) {
  launch.batch_invariant = true;
  for (const GemmCase& c :
       {GemmCase{.rows = 2048, .n = 256, .k = 7168, .f32 = true},
        GemmCase{.rows = 2048, .n = 64, .k = 1024, .f32 = true},
        GemmCase{.rows = 2048, .n = 576, .k = 7168}, GemmCase{.rows = 2048, .n = 2112, .k = 7168},
        GemmCase{.rows = 2048, .n = 512, .k = 128, .batch = 4, .heads = true}}) {
    SCOPED_TRACE(name_of(c));
    Operands s(c);
    const OutSegment& o = s.params.out[0];
    bf16_gemm(s.params, launch);
    synchronize();
    const auto want = s.buffers[0].download();
    for (int rows : {1, 2, 8, 9, 17, 33, 64, 65, 128, 129, 256, 1000}) {
      s.params.rows = rows;
      s.poison();
      bf16_gemm(s.params, launch);
      synchronize();
      const auto got = s.buffers[0].download();
      const size_t row_words = static_cast<size_t>(o.stride) * (o.f32 ? 2 : 1);
      int differ = 0;
      for (int r = 0; r < rows; ++r)
        differ += std::memcmp(&got[r * row_words], &want[r * row_words], row_words * 2) != 0;
      EXPECT_EQ(differ, 0) << "of " << rows << " rows";
    }
  }
}

struct GroupedCase {
  std::vector<int> counts;  // rows of the experts
  int n, k, spare = 0;      // rows that belong to no expert
  bool f32 = false;
};

TEST_F(Bf16GemmTest, Grouped) {
  std::vector<GroupedCase> cases = {
      {{1}, 64, 64},
      {{0, 3, 0, 1, 16, 17, 0, 0, 5, 0, 0, 2}, 512, 256, 4},
      {{0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0}, 200, 136, 0, true},
      {{128, 0, 129, 127, 1, 64, 65, 0, 300}, 768, 448, 3},
      {std::vector<int>(256, 0), 4096, 512, 8},
      {std::vector<int>(300, 1), 264, 128},
  };
  for (int i = 0; i < 256; i += 3) cases[4].counts[static_cast<size_t>(i)] = i % 23;
  for (const GroupedCase& c : cases) {
    std::vector<int32_t> offsets = {0};
    for (int count : c.counts) offsets.push_back(offsets.back() + count);
    const int experts = static_cast<int>(c.counts.size()), live = offsets.back();
    const int rows = live + c.spare;
    const auto a = quick_bf16(static_cast<size_t>(rows) * c.k, 3);
    const auto b = quick_bf16(static_cast<size_t>(experts) * c.n * c.k, 4);
    DeviceArray<Bf16> device_a(a), device_b(b);
    DeviceArray<int32_t> device_offsets(offsets);
    const int words = c.f32 ? 2 : 1;
    DeviceArray<uint16_t> out(static_cast<size_t>(rows + 2) * c.n * words);
    Bf16GroupedParams p{.a = device_a.data(),
                        .a_stride = c.k,
                        .b = device_b.data(),
                        .offsets = device_offsets.data(),
                        .out = out.data(),
                        .out_stride = c.n,
                        .out_f32 = c.f32,
                        .experts = experts,
                        .n = c.n,
                        .k = c.k,
                        .max_rows = rows,
                        .tokens = rows};
    std::vector<uint16_t> first;
    for (int shape = 0; shape < 4; ++shape) {
      const Bf16Problem problem{.rows = rows, .n = c.n, .k = c.k, .experts = experts};
      const Bf16Shape shapes[] = {
          {.warpgroups = 2, .n_rows = 16, .grouped = true},
          {.warpgroups = 2, .n_rows = 64, .grouped = true},
          {.warpgroups = 2, .n_rows = 256, .tokens_m = true, .grouped = true}};
      SCOPED_TRACE(
          fmt::format("{} experts, {} rows, n {} k {}, shape {}", experts, rows, c.n, c.k, shape));
      out.poison();
      if (shape == 3)
        bf16_grouped_gemm(p, launch);
      else
        bf16_grouped_gemm_with(p, plan_bf16_as(problem, launch.sms, shapes[shape], 1), launch);
      synchronize();
      const auto got = out.download();
      if (shape == 0) first = got;
      EXPECT_TRUE(got == first) << "bits differ from those of the first shape";
      std::atomic<int> bad = 0;
      parallel(rows + 2, [&](int64_t row) {
        const auto expert =
            std::upper_bound(offsets.begin(), offsets.end(), row) - offsets.begin() - 1;
        for (int col = 0; col < c.n; col += 1 + (rows > 500) * 6) {
          const size_t at = (static_cast<size_t>(row) * c.n + col) * words;
          if (row >= live) {
            bad += got[at] != 0xFFFF;
            continue;
          }
          double exact = 0, magnitude = 0;
          for (int l = 0; l < c.k; ++l) {
            const double product = static_cast<double>(to_float(a[row * c.k + l])) *
                                   to_float(b[(static_cast<size_t>(expert) * c.n + col) * c.k + l]);
            exact += product;
            magnitude += std::abs(product);
          }
          float value = to_float(Bf16{got[at]});
          if (c.f32) std::memcpy(&value, &got[at], 4);
          const double bound =
              c.f32 ? f32_bound(exact, magnitude, c.k) : bf16_bound(exact, magnitude, c.k);
          if (!(std::abs(value - exact) <= bound) && bad++ < 4)
            ADD_FAILURE() << fmt::format("row {} col {}: {} for {}", row, col, value, exact);
        }
      });
      EXPECT_EQ(bad, 0);
      if (HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace fathom::cuda
