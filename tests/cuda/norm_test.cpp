// Norms, quantisation, embedding, rope and cache appends on the GPU. Codes, scales, rope and cache
// bytes are due bit for bit; normed values within float32 summation error and one rounding.
#include <numeric>

#include "kernels/cuda/norm/norm.h"
#include "kernels/cuda/norm/position.h"
#include "kernels/cuda/norm/rows.h"
#include "numerics/hadamard.h"
#include "numerics/rope.h"
#include "support.h"

namespace fathom::cuda {
namespace {

using NormTest = GpuTest;

// Both sides hold the same bytes?
template <class T>
void expect_same(const std::vector<T>& got, const std::vector<T>& want, const std::string& what) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i)
    if (std::memcmp(&got[i], &want[i], sizeof(T)) != 0) {
      ADD_FAILURE() << what << ": first difference at " << i << " of " << got.size();
      return;
    }
}

// Codes and group-major scales of bf16 rows by the host's rule; padding of the scales stays 0xFF.
struct HostCodes {
  std::vector<uint8_t> codes;
  std::vector<float> scales;
};
float poison() { return float_of(0xFFFFFFFFu); }

HostCodes quantise_on_host(const std::vector<Bf16>& x, int rows, int n, int64_t x_stride,
                           int64_t scale_stride, bool ue8m0) {
  HostCodes h{std::vector<uint8_t>(static_cast<size_t>(rows) * n),
              std::vector<float>(static_cast<size_t>(n / kFp8Block * scale_stride), poison())};
  for (int r = 0; r < rows; ++r)
    for (int g = 0; g < n / kFp8Block; ++g) {
      const Bf16* v = &x[r * x_stride + g * kFp8Block];
      float amax = 0;
      for (int i = 0; i < kFp8Block; ++i) amax = std::fmax(amax, std::fabs(to_float(v[i])));
      float scale = group_scale(amax, ue8m0);
      h.scales[g * scale_stride + r] = scale;
      for (int i = 0; i < kFp8Block; ++i)
        h.codes[r * n + g * kFp8Block + i] = quantise(to_float(v[i]), scale);
    }
  return h;
}

// Values of every magnitude e4m3 treats differently: subnormals, ties, zeros, saturation.
std::vector<Bf16> wild_rows(size_t n, uint32_t seed) {
  std::vector<Bf16> x = random_bf16(n, seed);
  std::mt19937 generator(seed + 1);
  for (size_t i = 0; i < n; ++i) {
    float v = to_float(x[i]);
    switch (generator() % 8) {
      case 0:
        v *= 1e-3f;
        break;
      case 1:
        v *= 300.0f;
        break;
      case 2:
        v = 0.0f * v;
        break;
      case 3:
        v *= 1e-6f;
        break;
      default:
        break;
    }
    if (i / 128 % 5 == 4) v *= 1e-7f;  // whole groups below the floor of the amax
    x[i] = to_bf16(v);
  }
  return x;
}

TEST_F(NormTest, QuantisedRowsAreTheHostsBitForBit) {
  for (bool ue8m0 : {true, false})
    for (auto [rows, n, stride] : {std::tuple{1, 128, 128},
                                   {3, 384, 384},
                                   {129, 512, 576},
                                   {64, 7168, 7168},
                                   {7, 16384, 16384}}) {
      std::vector<Bf16> x = wild_rows(static_cast<size_t>(rows) * stride, 7 + rows);
      int64_t scale_stride = (rows + 3) / 4 * 4 + 4;
      HostCodes want = quantise_on_host(x, rows, n, stride, scale_stride, ue8m0);
      DeviceArray<Bf16> in(x);
      DeviceArray<uint8_t> codes(want.codes.size());
      DeviceArray<float> scales(want.scales.size());
      QuantiseParams p{
          in.data(), {codes.data(), scales.data(), scale_stride, ue8m0}, rows, n, stride};
      quantise_rows(p, launch);
      synchronize();
      expect_same(codes.download(), want.codes, "codes");
      expect_same(scales.download(), want.scales, "scales");
    }
}

TEST_F(NormTest, RmsNormIsTheDoubleSumsResult) {
  for (bool add : {false, true})
    for (auto [rows, n, pad] : {std::tuple{1, 8, 0},
                                {5, 384, 0},
                                {2, 1536, 576},
                                {64, 512, 64},
                                {3, 7168, 0},
                                {129, 7168, 8},
                                {2, 14336, 0},
                                {1, 32768, 0}}) {
      const int stride = n + pad;
      const size_t size = static_cast<size_t>(rows) * stride;
      std::vector<Bf16> x = random_bf16(size, 11, 3.0f), residual = random_bf16(size, 12, 20.0f);
      std::vector<float> gain = random_floats(n, 13);
      const bool quantised = n % kFp8Block == 0;
      int64_t scale_stride = (rows + 3) / 4 * 4;
      DeviceArray<Bf16> x_dev(x), residual_dev(residual), out(size);
      DeviceArray<float> gain_dev(gain), scales(n / 128 * scale_stride + 4);
      DeviceArray<uint8_t> codes(static_cast<size_t>(rows) * n);
      RmsNormParams p{.x = x_dev.data(),
                      .residual = add ? residual_dev.data() : nullptr,
                      .out = out.data(),
                      .gain = gain_dev.data(),
                      .codes = {},
                      .rows = rows,
                      .n = n,
                      .x_stride = stride,
                      .residual_stride = stride,
                      .out_stride = stride,
                      .eps = 1e-6f};
      if (quantised) p.codes = {codes.data(), scales.data(), scale_stride, true};
      rms_norm(p, launch);
      synchronize();

      std::vector<Bf16> got = out.download(), sum = residual_dev.download();
      int64_t off = 0;
      for (int r = 0; r < rows; ++r) {
        double square = 0;
        std::vector<float> v(n);
        for (int i = 0; i < n; ++i) {
          size_t at = static_cast<size_t>(r) * stride + i;
          v[i] = to_float(x[at]);
          if (add) {
            v[i] = round_bf16(v[i] + to_float(residual[at]));
            ASSERT_EQ(bits_of(to_float(sum[at])), bits_of(v[i])) << "residual " << r << "," << i;
          }
          square += static_cast<double>(v[i]) * v[i];
        }
        double inverse = 1.0 / std::sqrt(square / n + 1e-6f);
        for (int i = 0; i < n; ++i) {
          double exact = gain[i] * (v[i] * inverse);
          float y = to_float(got[static_cast<size_t>(r) * stride + i]);
          // Four float32 roundings of the factor, one of the result.
          ASSERT_LE(std::abs(y - exact), std::abs(exact) * (0x1p-8 + 0x1p-20)) << r << "," << i;
          off += bits_of(y) != bits_of(round_bf16(static_cast<float>(exact)));
        }
        for (int i = n; i < stride; ++i)
          ASSERT_EQ(got[static_cast<size_t>(r) * stride + i].bits, 0xFFFF) << "written outside";
      }
      // Another rounding only where the exact value lies within float32 error of a tie.
      EXPECT_LE(off, 2 + int64_t{rows} * n / 2000) << rows << "x" << n;
      if (!quantised) continue;
      HostCodes want = quantise_on_host(got, rows, n, stride, scale_stride, true);
      expect_same(codes.download(), want.codes, "codes of the normed rows");
      std::vector<float> s = scales.download();
      s.resize(want.scales.size());
      expect_same(s, want.scales, "scales of the normed rows");
    }
}

TEST_F(NormTest, RmsNormInPlaceAndAnyBatchGiveTheSameBits) {
  const int rows = 67, n = 1536;
  std::vector<Bf16> x = random_bf16(static_cast<size_t>(rows) * n, 5);
  std::vector<float> gain = random_floats(n, 6);
  DeviceArray<Bf16> in_place(x), all(x.size()), single(x.size()), source(x);
  DeviceArray<float> gain_dev(gain);
  RmsNormParams p{.x = source.data(),
                  .out = all.data(),
                  .gain = gain_dev.data(),
                  .codes = {},
                  .rows = rows,
                  .n = n,
                  .x_stride = n,
                  .residual_stride = 0,
                  .out_stride = n,
                  .eps = 1e-6f};
  rms_norm(p, launch);
  RmsNormParams q = p;
  q.x = q.out = in_place.data();
  rms_norm(q, launch);
  for (int r = 0; r < rows; ++r) {
    RmsNormParams one = p;
    one.x = source.data() + r * n;
    one.out = single.data() + r * n;
    one.rows = 1;
    rms_norm(one, launch);
  }
  synchronize();
  expect_same(in_place.download(), all.download(), "in place");
  expect_same(single.download(), all.download(), "row by row");
}

TEST_F(NormTest, EmbeddingAndGatheredRows) {
  const int vocab = 300, n = 384, rows = 37;
  std::vector<Bf16> table = random_bf16(static_cast<size_t>(vocab) * n, 1);
  std::vector<uint8_t> codes = random_codes(static_cast<size_t>(vocab) * n, 2);
  std::vector<float> scales = random_scales(3 * 3, 3, false);
  std::vector<int32_t> ids(rows);
  for (int i = 0; i < rows; ++i) ids[i] = i == 0 ? vocab - 1 : i * 131 % vocab;
  DeviceArray<Bf16> table_dev(table), out(static_cast<size_t>(rows) * n);
  DeviceArray<uint8_t> codes_dev(codes);
  DeviceArray<float> scales_dev(scales);
  DeviceArray<int32_t> ids_dev(ids);
  std::vector<Bf16> plain, quantised;
  for (int32_t id : ids)
    for (int i = 0; i < n; ++i) {
      plain.push_back(table[id * n + i]);
      quantised.push_back(
          to_bf16(fp8_to_float(codes[id * n + i]) * scales[id / 128 * 3 + i / 128]));
    }
  EmbedParams p{ids_dev.data(), table_dev.data(), nullptr, out.data(), rows, n, 0, n};
  embed_rows(p, launch);
  synchronize();
  expect_same(out.download(), plain, "bf16 table");
  out.poison();
  p.table = codes_dev.data();
  p.scales = scales_dev.data();
  p.scale_stride = 3;
  embed_rows(p, launch);
  synchronize();
  expect_same(out.download(), quantised, "FP8 table");
  out.poison();
  gather_rows({table_dev.data(), ids_dev.data(), out.data(), rows, n, n, n}, launch);
  synchronize();
  expect_same(out.download(), plain, "gathered");
}

// Tokens of three sequences at scattered positions, pages in no order.
struct Tokens {
  static constexpr int kMaxPages = 40, kSequences = 3, kPages = 128;
  std::vector<int32_t> positions, sequence_of, page_tables;
  explicit Tokens(int count) {
    std::vector<int32_t> pages(kPages);
    std::iota(pages.begin(), pages.end(), 0);
    std::mt19937 generator(count);
    std::shuffle(pages.begin(), pages.end(), generator);
    page_tables.assign(pages.begin(), pages.begin() + kSequences * kMaxPages);
    for (int t = 0; t < count; ++t) {
      sequence_of.push_back(t % kSequences);
      // No position twice in a sequence; page borders among them.
      positions.push_back(
          static_cast<int32_t>((63 + int64_t{t / kSequences} * 97) % (kMaxPages * kPageRows)));
    }
  }
  int64_t row(int t) const {
    return row_of(&page_tables[sequence_of[t] * kMaxPages], positions[t]);
  }
};

struct RopeHost {
  std::vector<float> cos, sin;
  RopeHost() {
    std::vector<float> f = rope_frequencies(64, 10000.0, nullptr);
    for (int pos = 0; pos < Tokens::kMaxPages * kPageRows; ++pos)
      for (float x : f) {
        cos.push_back(std::cos(static_cast<float>(pos) * x));
        sin.push_back(std::sin(static_cast<float>(pos) * x));
      }
  }
};

struct PositionCase {
  Tokens tokens;
  RopeHost rope;
  DeviceArray<int32_t> positions, sequence_of, page_tables;
  DeviceArray<float> cos, sin;
  explicit PositionCase(int count)
      : tokens(count),
        positions(tokens.positions),
        sequence_of(tokens.sequence_of),
        page_tables(tokens.page_tables),
        cos(rope.cos),
        sin(rope.sin) {}
  PositionParams params() const {
    PositionParams p;
    p.tokens = static_cast<int>(tokens.positions.size());
    p.positions = positions.data();
    p.sequence_of = sequence_of.data();
    p.page_tables = page_tables.data();
    p.max_pages = Tokens::kMaxPages;
    p.cos = cos.data();
    p.sin = sin.data();
    return p;
  }
  Pair turn(int t, int pair, Pair x) const {
    size_t at = static_cast<size_t>(tokens.positions[t]) * 32 + pair;
    Pair y = rotate(x, rope.cos[at], rope.sin[at]);
    return {round_bf16(y.a), round_bf16(y.b)};
  }
};

TEST_F(NormTest, QueryRopeIsTheHostsBitForBit) {
  for (auto [count, heads] : {std::pair{1, 4}, {1, 128}, {3, 16}, {65, 128}, {200, 5}}) {
    PositionCase c(count);
    const int width = 192, stride = heads * width + 8;
    std::vector<Bf16> q = random_bf16(static_cast<size_t>(count) * stride, 3), want = q;
    for (int t = 0; t < count; ++t)
      for (int h = 0; h < heads; ++h)
        for (int i = 0; i < 32; ++i) {
          Bf16* x = &want[static_cast<size_t>(t) * stride + h * width + 128 + 2 * i];
          Pair y = c.turn(t, i, {to_float(x[0]), to_float(x[1])});
          x[0] = to_bf16(y.a);
          x[1] = to_bf16(y.b);
        }
    DeviceArray<Bf16> dev(q);
    PositionParams p = c.params();
    p.rope_query = {dev.data(), heads, width, stride};
    run_position(p, launch);
    synchronize();
    expect_same(dev.download(), want, "rope of " + std::to_string(count));
  }
}

TEST_F(NormTest, LatentRows) {
  for (int count : {1, 2, 5, 130}) {
    PositionCase c(count);
    const int stride = 576 + 64, rows = Tokens::kPages * kPageRows;
    std::vector<Bf16> kv = random_bf16(static_cast<size_t>(count) * stride, 4, 2.0f);
    std::vector<float> gain = random_floats(512, 5);
    DeviceArray<Bf16> kv_dev(kv), plain(static_cast<size_t>(rows) * 576);
    DeviceArray<float> gain_dev(gain);
    PositionParams p = c.params();
    p.latent = {
        kv_dev.data(), stride, gain_dev.data(), 1e-6f, reinterpret_cast<std::byte*>(plain.data()),
        false,         true};
    run_position(p, launch);
    synchronize();
    std::vector<Bf16> got = plain.download(), expected_rest(got.size(), Bf16{0xFFFF});
    for (int t = 0; t < count; ++t) {
      const Bf16* x = &kv[static_cast<size_t>(t) * stride];
      Bf16* row = &got[static_cast<size_t>(c.tokens.row(t)) * 576];
      double square = 0;
      for (int i = 0; i < 512; ++i) square += static_cast<double>(to_float(x[i])) * to_float(x[i]);
      double inverse = 1.0 / std::sqrt(square / 512 + 1e-6f);
      for (int i = 0; i < 512; ++i) {
        double exact = gain[i] * (to_float(x[i]) * inverse);
        ASSERT_LE(std::abs(to_float(row[i]) - exact), std::abs(exact) * (0x1p-8 + 0x1p-20));
      }
      for (int i = 0; i < 32; ++i) {
        Pair y = c.turn(t, i, {to_float(x[512 + 2 * i]), to_float(x[513 + 2 * i])});
        ASSERT_EQ(bits_of(to_float(row[512 + 2 * i])), bits_of(y.a));
        ASSERT_EQ(bits_of(to_float(row[513 + 2 * i])), bits_of(y.b));
      }
    }
    for (bool ue8m0 : {true, false}) {
      // The FP8 row quantises exactly what the bf16 row holds.
      std::vector<LatentRowFp8> want(rows);
      std::memset(static_cast<void*>(want.data()), 0xFF, want.size() * sizeof(LatentRowFp8));
      for (int t = 0; t < count; ++t) {
        std::vector<Bf16> row(&got[c.tokens.row(t) * 576], &got[c.tokens.row(t) * 576] + 576);
        HostCodes h = quantise_on_host(row, 1, 512, 512, 4, ue8m0);
        LatentRowFp8& to = want[c.tokens.row(t)];
        std::copy(h.codes.begin(), h.codes.end(), to.code);
        for (int g = 0; g < 4; ++g) to.scale[g] = h.scales[g * 4];
        std::copy(row.begin() + 512, row.end(), to.rope);
      }
      DeviceArray<LatentRowFp8> coded(rows);
      p.latent.cache = reinterpret_cast<std::byte*>(coded.data());
      p.latent.fp8 = true;
      p.latent.ue8m0 = ue8m0;
      run_position(p, launch);
      synchronize();
      expect_same(coded.download(), want, "latent rows");
    }
  }
}

// Hadamard rotation, bf16 rounding and quantisation of a vector of 128.
HostCodes rotate_on_host(const Bf16* x, bool ue8m0) {
  float v[128];
  for (int i = 0; i < 128; ++i) v[i] = to_float(x[i]);
  hadamard_rotate(v, 128);
  std::vector<Bf16> rounded(128);
  for (int i = 0; i < 128; ++i) rounded[i] = to_bf16(v[i]);
  return quantise_on_host(rounded, 1, 128, 128, 4, ue8m0);
}

TEST_F(NormTest, IndexKeys) {
  for (int count : {1, 2, 17, 130}) {
    PositionCase c(count);
    const int stride = 128 + 8;
    std::vector<Bf16> k = random_bf16(static_cast<size_t>(count) * stride, 4, 2.0f);
    for (size_t i = 0; i < k.size(); ++i) k[i] = to_bf16(to_float(k[i]) + 1.5f);  // a mean
    std::vector<float> weight = random_floats(128, 5), bias = random_floats(128, 6);
    DeviceArray<Bf16> k_dev(k), plain(static_cast<size_t>(Tokens::kPages) * kPageRows * 128);
    DeviceArray<float> weight_dev(weight), bias_dev(bias);
    PositionParams p = c.params();
    p.index_key = {k_dev.data(),
                   stride,
                   weight_dev.data(),
                   bias_dev.data(),
                   reinterpret_cast<std::byte*>(plain.data()),
                   false,
                   true};
    run_position(p, launch);
    synchronize();
    std::vector<Bf16> got = plain.download();
    int64_t off = 0;
    for (int t = 0; t < count; ++t) {
      std::vector<float> x(128), y(128);
      for (int i = 0; i < 128; ++i) x[i] = to_float(k[static_cast<size_t>(t) * stride + i]);
      double mean = std::accumulate(x.begin(), x.end(), 0.0) / 128, variance = 0;
      for (float v : x) variance += (v - mean) * (v - mean);
      double inverse = 1.0 / std::sqrt(variance / 128 + 1e-6f);
      for (int i = 0; i < 128; ++i)
        y[i] = round_bf16(static_cast<float>((x[i] - mean) * inverse * weight[i] + bias[i]));
      for (int i = 0; i < 32; ++i) {
        Pair turned = c.turn(t, i, {y[i], y[i + 32]});
        y[i] = turned.a;
        y[i + 32] = turned.b;
      }
      const Bf16* row = &got[static_cast<size_t>(c.tokens.row(t)) * 128];
      for (int i = 0; i < 128; ++i) {
        // One flipped rounding of an input of the rope shows as a part of its pair.
        ASSERT_NEAR(to_float(row[i]), y[i], 0.02 * (1 + std::abs(y[i]))) << t << "," << i;
        off += bits_of(to_float(row[i])) != bits_of(y[i]);
      }
    }
    EXPECT_LE(off, 2 + count * 128 / 200);
    for (bool ue8m0 : {true, false}) {
      std::vector<uint8_t> want(Tokens::kPages * sizeof(IndexPageFp8), 0xFF);
      for (int t = 0; t < count; ++t) {
        int64_t row = c.tokens.row(t);
        HostCodes h = rotate_on_host(&got[row * 128], ue8m0);
        uint8_t* page = &want[row / 64 * sizeof(IndexPageFp8)];
        std::copy(h.codes.begin(), h.codes.end(), page + row % 64 * 128);
        std::memcpy(page + 64 * 128 + row % 64 * 4, h.scales.data(), 4);
      }
      DeviceArray<uint8_t> coded(want.size());
      p.index_key.cache = reinterpret_cast<std::byte*>(coded.data());
      p.index_key.fp8 = true;
      p.index_key.ue8m0 = ue8m0;
      run_position(p, launch);
      synchronize();
      expect_same(coded.download(), want, "index pages");
    }
  }
}

TEST_F(NormTest, IndexQueriesAreTheHostsBitForBit) {
  for (auto [count, heads] : {std::pair{1, 8}, {1, 64}, {3, 5}, {65, 64}})
    for (bool fp8 : {true, false}) {
      PositionCase c(count);
      const int stride = heads * 128 + 16, weight_stride = heads + 3;
      std::vector<Bf16> q = random_bf16(static_cast<size_t>(count) * stride, 9);
      std::vector<float> weight = random_floats(static_cast<size_t>(count) * weight_stride, 10);
      std::vector<float> want_weight = weight;
      std::vector<uint8_t> want_codes(static_cast<size_t>(count) * heads * 128);
      std::vector<Bf16> want_plain(want_codes.size());
      for (int t = 0; t < count; ++t)
        for (int h = 0; h < heads; ++h) {
          std::vector<Bf16> v(&q[t * stride + h * 128], &q[t * stride + h * 128] + 128);
          for (int i = 0; i < 32; ++i) {
            Pair y = c.turn(t, i, {to_float(v[i]), to_float(v[i + 32])});
            v[i] = to_bf16(y.a);
            v[i + 32] = to_bf16(y.b);
          }
          std::copy(v.begin(), v.end(), &want_plain[(t * heads + h) * 128]);
          HostCodes coded = rotate_on_host(v.data(), true);
          std::copy(coded.codes.begin(), coded.codes.end(), &want_codes[(t * heads + h) * 128]);
          float& w = want_weight[t * weight_stride + h];
          w *= 1.0f / std::sqrt(static_cast<float>(heads));
          if (fp8) w *= coded.scales[0];
          w *= 1.0f / std::sqrt(128.0f);
        }
      DeviceArray<Bf16> q_dev(q), plain(want_plain.size());
      DeviceArray<uint8_t> codes(want_codes.size());
      DeviceArray<float> weight_dev(weight);
      PositionParams p = c.params();
      p.index_query = {q_dev.data(),
                       stride,
                       fp8 ? static_cast<void*>(codes.data()) : plain.data(),
                       heads * 128,
                       weight_dev.data(),
                       weight_stride,
                       heads,
                       fp8,
                       true};
      run_position(p, launch);
      synchronize();
      if (fp8)
        expect_same(codes.download(), want_codes, "index query codes");
      else
        expect_same(plain.download(), want_plain, "index queries");
      expect_same(weight_dev.download(), want_weight, "head weights");
    }
}

TEST_F(NormTest, PartsTogetherAndApartGiveTheSameBytes) {
  const int count = 33, heads = 16, index_heads = 8;
  PositionCase c(count);
  std::vector<Bf16> q = random_bf16(count * heads * 192, 1), kv = random_bf16(count * 576, 2),
                    k = random_bf16(count * 128, 3), iq = random_bf16(count * index_heads * 128, 4);
  std::vector<float> gain = random_floats(512, 5), weight = random_floats(count * index_heads, 6);
  DeviceArray<Bf16> kv_dev(kv), k_dev(k), iq_dev(iq);
  DeviceArray<float> gain_dev(gain);
  struct Result {
    std::vector<Bf16> q;
    std::vector<uint8_t> latent, index, codes;
    std::vector<float> weight;
  };
  auto run = [&](bool together) {
    DeviceArray<Bf16> q_dev(q);
    DeviceArray<uint8_t> latent(Tokens::kPages * kPageRows * 656),
        index(Tokens::kPages * sizeof(IndexPageFp8)), codes(iq.size());
    DeviceArray<float> weight_dev(weight);
    PositionParams all = c.params();
    all.rope_query = {q_dev.data(), heads, 192, heads * 192};
    all.latent = {
        kv_dev.data(), 576, gain_dev.data(), 1e-6f, reinterpret_cast<std::byte*>(latent.data()),
        true,          true};
    all.index_key = {k_dev.data(),
                     128,
                     gain_dev.data(),
                     gain_dev.data() + 128,
                     reinterpret_cast<std::byte*>(index.data()),
                     true,
                     true};
    all.index_query = {iq_dev.data(),
                       index_heads * 128,
                       codes.data(),
                       index_heads * 128,
                       weight_dev.data(),
                       index_heads,
                       index_heads,
                       true,
                       true};
    for (int part = 0; part < 4; ++part) {
      PositionParams p = all;
      if (!together) {
        if (part != 0) p.rope_query = {};
        if (part != 1) p.latent = {};
        if (part != 2) p.index_key = {};
        if (part != 3) p.index_query = {};
      } else if (part > 0) {
        break;
      }
      run_position(p, launch);
    }
    synchronize();
    return Result{q_dev.download(), latent.download(), index.download(), codes.download(),
                  weight_dev.download()};
  };
  Result a = run(true), b = run(false);
  expect_same(a.q, b.q, "queries");
  expect_same(a.latent, b.latent, "latents");
  expect_same(a.index, b.index, "index keys");
  expect_same(a.codes, b.codes, "index queries");
  expect_same(a.weight, b.weight, "head weights");
}

}  // namespace
}  // namespace fathom::cuda
