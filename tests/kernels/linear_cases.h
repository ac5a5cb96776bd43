// Random weights and activations for the tests of the linear layers, and what they should give:
// float64 sums with a bound derived from the order of summation (kernels/cpu/gemm.h).
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/rows.h"
#include "kernels/cpu_ops.h"

namespace fathom::test {

inline constexpr Numerics kAllNumerics[] = {Numerics::exact, Numerics::bf16, Numerics::fp8};

// A weight that owns its memory. `odd_scales`: scales that are no powers of two.
class RandomWeight {
 public:
  RandomWeight(int64_t rows, int64_t cols, DType dtype, uint32_t seed, bool odd_scales = false,
               int row_offset = 0) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal;
    data_.resize(static_cast<size_t>(rows * cols) * size_of(dtype));
    for (int64_t i = 0; i < rows * cols; ++i) {
      float v = normal(rng);
      if (dtype == DType::fp8_e4m3) {
        uint8_t code = static_cast<uint8_t>(rng());  // every code, the subnormal ones too
        if ((code & 0x7F) == 0x7F) code ^= 1;        // but NaN
        data_[i] = static_cast<std::byte>(code);
      } else if (dtype == DType::bf16) {
        reinterpret_cast<Bf16*>(data_.data())[i] = to_bf16(v);
      } else if (dtype == DType::f16) {
        // Any finite pattern with an exponent that keeps sums harmless.
        reinterpret_cast<uint16_t*>(data_.data())[i] = static_cast<uint16_t>(rng() & 0xBFFF);
      } else {
        reinterpret_cast<float*>(data_.data())[i] = v;
      }
    }
    weight = {.data = data_.data(), .dtype = dtype, .rows = rows, .cols = cols};
    if (dtype != DType::fp8_e4m3) return;
    int64_t stride = (cols + kFp8Block - 1) / kFp8Block;
    scale_.resize(static_cast<size_t>((rows + row_offset + kFp8Block - 1) / kFp8Block * stride));
    for (float& s : scale_) {
      s = std::ldexp(1.0f, static_cast<int>(rng() % 6) - 9);
      if (odd_scales) s *= 1.0f + static_cast<float>(rng() % 1000) / 1000.0f;
    }
    weight.scale = scale_.data();
    weight.scale_stride = stride;
    weight.row_offset = row_offset;
    weight.pow2_scale = !odd_scales;
  }
  RandomWeight(RandomWeight&&) = default;

  QWeight weight;

 private:
  std::vector<std::byte> data_;
  std::vector<float> scale_;
};

// Rows of activations (or of results) with their memory; `gap` elements lie between rows.
class Matrix {
 public:
  Matrix(DType dtype, int64_t rows, int64_t cols, int64_t gap = 0)
      : data_(static_cast<size_t>(rows * (cols + gap) + 1) * size_of(dtype)) {
    tensor = Tensor(data_.data(), dtype, {std::max<int64_t>(rows, 1), cols + gap});
    tensor = tensor.columns(0, cols).slice(0, rows);
  }
  static Matrix random(DType dtype, int64_t rows, int64_t cols, uint32_t seed, int64_t gap = 0) {
    Matrix m(dtype, rows, cols, gap);
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal;
    for (int64_t t = 0; t < rows; ++t)
      for (int64_t i = 0; i < cols; ++i) store(m.tensor, t, i, normal(rng) * std::exp(normal(rng)));
    return m;
  }
  float at(int64_t row, int64_t col) const {
    return tensor.dtype == DType::f32 ? tensor.row<float>(row)[col]
                                      : to_float(tensor.row<Bf16>(row)[col]);
  }

  Tensor tensor;

 private:
  std::vector<std::byte> data_;
};

inline DType activation_type(Numerics n) { return n == Numerics::exact ? DType::f32 : DType::bf16; }

inline Workload small_workload(int tokens = 64) {
  Workload w;
  w.step_tokens = tokens;
  w.context = 1024;
  w.hidden = 768;
  w.max_intermediate = 640;
  w.heads = 4;
  w.nope = 128;
  w.rope = 64;
  w.value = 128;
  w.latent = 512;
  w.q_rank = 256;
  w.index_heads = 8;
  w.index_dim = 128;
  w.index_topk = 64;
  w.experts = 16;
  w.experts_per_token = 4;
  w.vocab = 1024;
  return w;
}

// The implementations that this processor can run, less the reference.
inline std::vector<const CpuKernels*> fast_kernels() {
  std::vector<const CpuKernels*> out;
  for (const CpuKernels& k : cpu_kernels())
    if (k.usable() && k.name != "reference") out.push_back(&k);
  return out;
}

inline void expect_same_bits(Tensor a, Tensor b, const std::string& what) {
  ASSERT_EQ(a.rows(), b.rows());
  size_t size = size_of(a.dtype);
  for (int64_t t = 0; t < a.rows(); ++t)
    ASSERT_EQ(0, std::memcmp(static_cast<char*>(a.data) + t * a.row_stride * size,
                             static_cast<char*>(b.data) + t * b.row_stride * size,
                             static_cast<size_t>(a.row_size()) * size))
        << what << ", row " << t;
}

// x W^T by float64 sums, and how far float32 in the kernels' order may be from it.
struct Expected {
  std::vector<double> value, bound;
};

inline Expected expected_product(Tensor x, const QWeight& w, Numerics numerics, bool ue8m0) {
  int64_t k = w.cols;
  std::vector<float> in(static_cast<size_t>(x.rows() * k));
  for (int64_t t = 0; t < x.rows(); ++t) {
    load_row(x, t, &in[t * k]);
    if (numerics == Numerics::fp8 && w.is_fp8()) fake_quantise(&in[t * k], k, ue8m0);
  }
  // A lane adds at most 512 / 4 products one by one (bf16 products in pairs), then come 3 additions
  // of lanes, one for each 512 (or 128) columns, and roundings of scales and codes: each loses at
  // most 2^-24 of the sum of magnitudes.
  double roundings = static_cast<double>(std::min<int64_t>(k, 512)) / 4 + k / 128.0 + 12;
  bool rounds_weights = numerics == Numerics::bf16 && w.is_fp8();
  Expected e;
  e.value.resize(static_cast<size_t>(x.rows() * w.rows));
  e.bound.resize(e.value.size());
  std::vector<float> row(static_cast<size_t>(k));
  for (int64_t n = 0; n < w.rows; ++n) {
    load_weight_row(w, n, row.data());
    for (float& v : row) v = rounds_weights ? round_bf16(v) : v;
    for (int64_t t = 0; t < x.rows(); ++t) {
      double sum = 0, magnitude = 0;
      for (int64_t c = 0; c < k; ++c) {
        double product = static_cast<double>(row[c]) * in[t * k + c];
        sum += product;
        magnitude += std::abs(product);
      }
      e.value[t * w.rows + n] = sum;
      e.bound[t * w.rows + n] = magnitude * roundings * std::ldexp(1.0, -24);
    }
  }
  return e;
}

inline void expect_close(const Expected& e, const Matrix& got, const std::string& what) {
  double rounding =
      got.tensor.dtype == DType::bf16 ? std::ldexp(1.0, -8) : 0;  // half a unit in the last place
  int64_t n = got.tensor.row_size();
  double worst = 0;
  for (int64_t t = 0; t < got.tensor.rows(); ++t)
    for (int64_t i = 0; i < n; ++i) {
      double value = e.value[t * n + i];
      double bound = e.bound[t * n + i] + rounding * (std::abs(value) + e.bound[t * n + i]);
      double error = std::abs(got.at(t, i) - value);
      ASSERT_LE(error, bound + 1e-37)
          << what << " at [" << t << ", " << i << "] " << got.at(t, i) << " for " << value;
      worst = std::max(worst, bound > 0 ? error / bound : 0);
    }
  EXPECT_LE(worst, 1.0);
}

}  // namespace fathom::test
