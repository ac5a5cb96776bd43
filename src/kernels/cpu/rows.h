// Reads and writes rows of any dtype as float32, for loops that need not be fast.
#pragma once

#include <cmath>
#include <cstring>

#include "kernels/batch_view.h"
#include "kernels/qweight.h"
#include "numerics/f16.h"
#include "numerics/fp8.h"
#include "tensor/tensor.h"

namespace fathom {

inline void load_row(Tensor x, int64_t row, float* out) {
  int64_t n = x.row_size();
  if (x.dtype == DType::f32) {
    std::memcpy(out, x.row<float>(row), static_cast<size_t>(n) * sizeof(float));
  } else {
    const Bf16* p = x.row<Bf16>(row);
    for (int64_t i = 0; i < n; ++i) out[i] = to_float(p[i]);
  }
}

// Rounds to the tensor's dtype: the one rounding of an op.
inline void store(Tensor x, int64_t row, int64_t i, float value) {
  if (x.dtype == DType::f32)
    x.row<float>(row)[i] = value;
  else
    x.row<Bf16>(row)[i] = to_bf16(value);
}

inline void fill_zero(Tensor x) {
  const size_t bytes = static_cast<size_t>(x.row_size()) * size_of(x.dtype);
  for (int64_t t = 0; t < x.rows(); ++t)
    std::memset(
        static_cast<char*>(x.data) + t * x.row_stride * static_cast<int64_t>(size_of(x.dtype)), 0,
        bytes);
}

// Returns `value` as it would be read back after a store.
inline float rounded(DType dtype, float value) {
  return dtype == DType::bf16 ? round_bf16(value) : value;
}

// One weight, dequantised.
inline float weight_at(const QWeight& w, int64_t row, int64_t col) {
  switch (w.dtype) {
    case DType::fp8_e4m3:
      return fp8_to_float(w.row<uint8_t>(row)[col]) * w.scales_of_row(row)[col / kFp8Block];
    case DType::bf16:
      return to_float(w.row<Bf16>(row)[col]);
    case DType::f16:
      return half_to_float(w.row<uint16_t>(row)[col]);
    default:
      return w.row<float>(row)[col];
  }
}

inline void load_weight_row(const QWeight& w, int64_t row, float* out) {
  for (int64_t c = 0; c < w.cols; ++c) out[c] = weight_at(w, row, c);
}

// Rounds x through e4m3 in groups of 128 (the last may be short): the quantisation of activations.
inline void fake_quantise(float* x, int64_t n, bool ue8m0) {
  for (int64_t g = 0; g < n; g += kFp8Block) {
    int64_t end = g + kFp8Block < n ? g + kFp8Block : n;
    float amax = 0;
    for (int64_t i = g; i < end; ++i) amax = std::fmax(amax, std::fabs(x[i]));
    float scale = group_scale(amax, ue8m0);
    for (int64_t i = g; i < end; ++i) x[i] = fp8_to_float(quantise(x[i], scale)) * scale;
  }
}

// n values as codes, and one float32 scale per 128 of them.
inline void write_fp8_values(std::byte* codes, std::byte* scales, const float* x, int64_t n,
                             bool ue8m0) {
  uint8_t* code = reinterpret_cast<uint8_t*>(codes);
  for (int64_t g = 0; g < n; g += kFp8Block) {
    int64_t end = g + kFp8Block < n ? g + kFp8Block : n;
    float amax = 0;
    for (int64_t i = g; i < end; ++i) amax = std::fmax(amax, std::fabs(x[i]));
    float scale = group_scale(amax, ue8m0);
    for (int64_t i = g; i < end; ++i) code[i] = quantise(x[i], scale);
    std::memcpy(scales + 4 * (g / kFp8Block), &scale, sizeof(scale));
  }
}

// The same with the scales after the codes.
inline void write_fp8_row(std::byte* row, const float* x, int64_t n, bool ue8m0) {
  write_fp8_values(row, row + n, x, n, ue8m0);
}

inline float fp8_row_scale(const std::byte* row, int64_t n, int64_t group) {
  float scale;
  std::memcpy(&scale, row + n + 4 * group, sizeof(scale));
  return scale;
}

// Plain values of n elements in f32 or bf16.
inline void write_plain_row(std::byte* row, const float* x, int64_t n, KvFormat format) {
  for (int64_t i = 0; i < n; ++i) {
    if (format == KvFormat::f32)
      std::memcpy(row + 4 * i, &x[i], 4);
    else
      reinterpret_cast<Bf16*>(row)[i] = to_bf16(x[i]);
  }
}

inline void read_plain_row(const std::byte* row, float* x, int64_t n, KvFormat format) {
  for (int64_t i = 0; i < n; ++i) {
    if (format == KvFormat::f32)
      std::memcpy(&x[i], row + 4 * i, 4);
    else
      x[i] = to_float(reinterpret_cast<const Bf16*>(row)[i]);
  }
}

// Writes an index row in the cache's format.
inline void write_index_row(const KvView& kv, int64_t row, const float* x) {
  if (kv.index_format == KvFormat::fp8)
    write_fp8_values(kv.index_row(row), kv.index_scales(row), x, kv.index_dim, kv.ue8m0);
  else
    write_plain_row(kv.index_row(row), x, kv.index_dim, kv.index_format);
}
// Reads an index row: `x` gets the values without the scale, which is returned (1 unless the row is
// fp8).
inline float read_index_row(const KvView& kv, int64_t row, float* x) {
  const std::byte* p = kv.index_row(row);
  if (kv.index_format != KvFormat::fp8) {
    read_plain_row(p, x, kv.index_dim, kv.index_format);
    return 1.0f;
  }
  for (int i = 0; i < kv.index_dim; ++i) x[i] = fp8_to_float(static_cast<uint8_t>(p[i]));
  float scale;
  std::memcpy(&scale, kv.index_scales(row), sizeof(scale));
  return scale;
}

// A latent row: out[0 .. latent) the latent, out[latent .. latent + rope) the rotated key part.
inline void read_latent_row(const KvView& kv, int64_t row, float* out) {
  const std::byte* p = kv.latent_row(row);
  if (kv.latent_format != KvFormat::fp8)
    return read_plain_row(p, out, kv.latent_dim + kv.rope_dim, kv.latent_format);
  const uint8_t* code = reinterpret_cast<const uint8_t*>(p);
  for (int i = 0; i < kv.latent_dim; ++i)
    out[i] = fp8_to_float(code[i]) * fp8_row_scale(p, kv.latent_dim, i / kFp8Block);
  int64_t scales = (kv.latent_dim + kFp8Block - 1) / kFp8Block;
  read_plain_row(p + kv.latent_dim + 4 * scales, out + kv.latent_dim, kv.rope_dim, KvFormat::bf16);
}

inline void write_latent_row(const KvView& kv, int64_t row, const float* x) {
  std::byte* p = kv.latent_row(row);
  if (kv.latent_format != KvFormat::fp8)
    return write_plain_row(p, x, kv.latent_dim + kv.rope_dim, kv.latent_format);
  write_fp8_row(p, x, kv.latent_dim, kv.ue8m0);
  int64_t scales = (kv.latent_dim + kFp8Block - 1) / kFp8Block;
  write_plain_row(p + kv.latent_dim + 4 * scales, x + kv.latent_dim, kv.rope_dim, KvFormat::bf16);
}

}  // namespace fathom
