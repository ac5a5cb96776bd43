// Row operations of the fast implementations: quantisation bit for bit, norms, embedding, silu.
#include <bit>

#include "kernels/cpu/gemm.h"
#include "kernels/linear_cases.h"

namespace fathom::test {
namespace {

std::vector<const GemmKernels*> tables() {
  std::vector<const GemmKernels*> out;
#if defined(__x86_64__)
  for (const GemmKernels* table : {&kGemmAmx, &kGemmAvx512, &kGemmAvx512F32, &kGemmAvx2})
    for (const CpuKernels* k : fast_kernels())
      if (k->name == table->name) out.push_back(table);
#endif
  return out;
}

// Values of every kind: ordinary, tiny, huge, exact powers of two and multiples of 448 (whose
// scales must not be bumped), halves between codes, zeros of both signs, infinities, NaN.
std::vector<float> hostile_values(size_t n, uint32_t seed) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> v(n);
  int exponent = static_cast<int>(rng() % 240) - 120;
  for (size_t i = 0; i < n; ++i) {
    switch ((rng() + seed) % 9) {
      case 0:
        v[i] = std::ldexp(1.0f, static_cast<int>(rng() % 60) - 40);
        break;
      case 1:
        v[i] = std::ldexp(448.0f, static_cast<int>(rng() % 20) - 20);
        break;
      case 2:
        v[i] = rng() % 2 ? 0.0f : -0.0f;
        break;
      case 3:
        v[i] = std::ldexp(static_cast<float>(rng() % 4096), -12);
        break;
      default:
        v[i] = seed % 3 ? normal(rng) : std::ldexp(normal(rng), exponent);
    }
  }
  if (seed % 7 == 0) v[rng() % n] = NAN;
  if (seed % 11 == 0) v[rng() % n] = seed % 2 ? INFINITY : -INFINITY;
  return v;
}

void expect_same_value(float got, float want, const std::string& what) {
  if (std::isnan(want))
    ASSERT_TRUE(std::isnan(got)) << what;
  else
    ASSERT_EQ(std::bit_cast<uint32_t>(got), std::bit_cast<uint32_t>(want))
        << what << ": " << got << " for " << want;
}

TEST(LinearRows, QuantisesBitForBitAsTheRuleSays) {
  for (const GemmKernels* k : tables())
    for (uint32_t seed = 1; seed < 300; ++seed)
      for (bool ue8m0 : {true, false})
        for (bool apart : {true, false}) {
          int64_t n = seed % 5 ? 384 : 130 + seed % 100;
          bool bf16_in = seed % 2, bf16_out = apart || ue8m0;
          std::vector<float> v = hostile_values(static_cast<size_t>(n), seed);
          std::vector<Bf16> narrow(v.size());
          for (size_t i = 0; i < v.size(); ++i) {
            narrow[i] = to_bf16(v[i]);
            if (bf16_in) v[i] = to_float(narrow[i]);
          }
          int64_t padded = (n + kStep - 1) / kStep * kStep;
          Matrix out(bf16_out ? DType::bf16 : DType::f32, 1, padded);
          std::vector<float> scales(8, -1.0f);
          k->prepare({.x = bf16_in ? static_cast<const void*>(narrow.data()) : v.data(),
                      .x_bf16 = bf16_in,
                      .columns = n,
                      .out = out.tensor.data,
                      .out_bf16 = bf16_out,
                      .group_scale = group_scale,
                      .ue8m0 = ue8m0,
                      .scales = apart ? scales.data() : nullptr});
          for (int64_t g = 0; g < n; g += kFp8Block) {
            float amax = 0;
            int64_t end = std::min<int64_t>(g + kFp8Block, n);
            for (int64_t i = g; i < end; ++i) amax = std::fmax(amax, std::fabs(v[i]));
            float scale = group_scale(amax, ue8m0);
            std::string what = fmt::format("{} seed {} ue8m0 {}", k->name, seed, ue8m0);
            if (apart) expect_same_value(scales[g / kFp8Block], scale, what + " scale");
            for (int64_t i = g; i < end; ++i) {
              float code = fp8_to_float(quantise(v[i], scale));
              float want = apart ? code : code * scale;
              // Infinite groups: infinity times 0 in one order, NaN in the other; both are lost.
              if (std::isinf(scale) && !apart) want = NAN;
              expect_same_value(out.at(0, i), want, fmt::format("{} [{}] of {}", what, i, v[i]));
              if (HasFatalFailure()) return;
            }
          }
          for (int64_t i = n; i < padded; ++i) ASSERT_EQ(out.at(0, i), 0.0f) << "padding";
        }
}

TEST(LinearRows, SiluIsWithinAFewUnitsOfTheLastPlace) {
  for (const GemmKernels* k : tables()) {
    std::vector<float> g, u, out;
    for (float v = -110.0f; v < 110.0f; v += 0.0173f) {
      g.push_back(v);
      u.push_back(1.5f - v / 100.0f);
    }
    for (float v : {0.0f, -0.0f, 1e-30f, -1e-30f, 1e30f, -1e30f, INFINITY, NAN}) {
      g.push_back(v);
      u.push_back(1.0f);
    }
    out.resize(g.size());
    k->silu({.gate = g.data(),
             .up = u.data(),
             .stride = 0,
             .rows = 1,
             .columns = static_cast<int64_t>(g.size()),
             .out = out.data(),
             .out_stride = 0,
             .bf16 = false});
    for (size_t i = 0; i < g.size(); ++i) {
      double want = g[i] / (1.0 + std::exp(-static_cast<double>(g[i]))) * u[i];
      if (std::isnan(want)) {
        EXPECT_TRUE(std::isnan(out[i]));
      } else if (std::isinf(want)) {
        EXPECT_EQ(out[i], want);
      } else {
        // Below e^-87 the divisor overflows or the result is subnormal: absolute error only.
        EXPECT_LE(std::abs(out[i] - want), 5 * std::ldexp(std::abs(want), -24) + 1e-36)
            << k->name << " silu(" << g[i] << ")";
      }
    }
  }
}

TEST(LinearRows, NormsMatchFloat64AndDoNotDependOnTheBatch) {
  for (const CpuKernels* k : fast_kernels())
    for (Numerics n : {Numerics::exact, Numerics::bf16})
      for (int64_t width : {1, 15, 384, 513, 7168}) {
        ThreadPool pool(2);
        std::unique_ptr<Ops> ops = k->make(n, small_workload(), pool);
        DType type = activation_type(n);
        Matrix x = Matrix::random(type, 9, width, 3), update = Matrix::random(type, 9, width, 4, 2);
        Matrix gain = Matrix::random(DType::f32, 1, width, 5);
        Matrix out(type, 9, width, 7), sum(type, 9, width), single(type, 1, width);
        const float* g = gain.tensor.row<float>(0);
        for (int64_t t = 0; t < 9; ++t)
          for (int64_t i = 0; i < width; ++i) store(sum.tensor, t, i, x.at(t, i));
        ops->add_rms_norm(out.tensor, sum.tensor, update.tensor, g, 1e-6f);
        double unit = std::ldexp(1.0, type == DType::bf16 ? -8 : -22);
        for (int64_t t = 0; t < 9; ++t) {
          double square = 0;
          for (int64_t i = 0; i < width; ++i) {
            float s = rounded(type, x.at(t, i) + update.at(t, i));
            ASSERT_EQ(sum.at(t, i), s);
            square += static_cast<double>(s) * s;
          }
          double inverse = 1.0 / std::sqrt(square / static_cast<double>(width) + 1e-6);
          for (int64_t i = 0; i < width; ++i) {
            double want = g[i] * (sum.at(t, i) * inverse);
            ASSERT_LE(std::abs(out.at(t, i) - want), std::abs(want) * unit * 1.001 + 1e-37);
          }
          ops->rms_norm(single.tensor, sum.tensor.slice(t, t + 1), g, 1e-6f);
          expect_same_bits(out.tensor.slice(t, t + 1), single.tensor, "norm of one row");
        }
      }
}

TEST(LinearRows, EmbedsFromTablesOfAnyType) {
  for (const CpuKernels* k : fast_kernels())
    for (Numerics n : {Numerics::exact, Numerics::bf16})
      for (DType type : {DType::bf16, DType::f32, DType::fp8_e4m3, DType::f16}) {
        ThreadPool pool(1);
        RandomWeight table(50, 203, type, 3);
        std::vector<int32_t> ids = {0, 49, 7, 7};
        Matrix a(activation_type(n), 4, 203, 1), b(activation_type(n), 4, 203);
        k->make(n, small_workload(), pool)->embed(a.tensor, ids.data(), table.weight);
        make_reference_ops(n, small_workload(), pool)->embed(b.tensor, ids.data(), table.weight);
        expect_same_bits(a.tensor, b.tensor, std::string(k->name));
      }
}

}  // namespace
}  // namespace fathom::test
