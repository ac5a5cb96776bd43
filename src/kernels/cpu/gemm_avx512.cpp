// AVX-512 with VBMI and BF16. The heart is vdpbf16ps; FP8 codes become bf16 by table look-up in
// registers (vpermi2b: 128 magnitudes, low and high byte), already multiplied by their scale.
#if defined(__x86_64__)
// GCC 12's own intrinsics read a variable before its first assignment, on purpose (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/gemm.h"

namespace fathom {
namespace {

// The instruction flushes results below 2^-126 to zero, which is too small to matter in any
// product.
inline __m256i to_bf16_bits(__m512 v) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)); }

#include "kernels/cpu/vector_avx512_inl.h"

#include "kernels/cpu/gemm_inl.h"
#include "kernels/cpu/product_bf16_inl.h"
#include "kernels/cpu/product_f32_inl.h"
#include "kernels/cpu/rows_inl.h"

struct DotBf16 {
  static constexpr int kUnitsPerBlock = kBlock / 8;
  static __m512 add(__m512 sum, __m512 x, __m512 w) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(w));
  }
};

#include "kernels/cpu/fp8_bf16_avx512_inl.h"

// Loads 16 bytes of each of 4 rows that are `stride4` bytes apart.
inline __m512i gather4(const uint8_t* p, int64_t stride4) {
  auto at = [&](int i) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + i * stride4));
  };
  __m256i a = _mm256_inserti128_si256(_mm256_castsi128_si256(at(0)), at(1), 1);
  __m256i b = _mm256_inserti128_si256(_mm256_castsi128_si256(at(2)), at(3), 1);
  return _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
}

// The same at an edge, where rows are missing or have fewer than 16 bytes left.
inline __m512i gather4_edge(const Strip& s, int z, int64_t offset, int bytes) {
  alignas(64) uint8_t buffer[64] = {};
  for (int lane = 0; lane < 4; ++lane) {
    int r = 4 * lane + z;
    memcpy(buffer + 16 * lane, s.data + (r < s.rows ? r : s.rows - 1) * s.stride + offset, bytes);
  }
  return _mm512_load_si512(buffer);
}

// Codes or bf16 values of one vector: columns [k, k + 16 or 8) of rows z, 4 + z, ...
inline __m512i load_strip(const Strip& s, int z, int64_t k, int size) {
  int64_t left = (s.columns - k) * size;
  if (s.rows == kStripRows && left >= 16)
    return gather4(s.data + z * s.stride + k * size, 4 * s.stride);
  return gather4_edge(s, z, k * size, left < 0 ? 0 : left < 16 ? static_cast<int>(left) : 16);
}

// ------------------------------------------------------------------------------------- panels

// One step of 16 columns: two units. kWhole: 16 rows, and all columns are there.
template <bool kFp8, bool kWhole>
inline void pack_step(const Strip& s, const Table& table, int64_t k, uint8_t* panel) {
  const uint8_t* from = s.data + k * (kFp8 ? 1 : 2);
  for (int z = 0; z < 4; ++z, from += s.stride, panel += 64) {
    __m512 a, b;
    if constexpr (kFp8) {
      __m512i codes = kWhole ? gather4(from, 4 * s.stride) : load_strip(s, z, k, 1);
      expand(table, codes, &a, &b);
    } else {
      a = _mm512_castsi512_ps(kWhole ? gather4(from, 4 * s.stride) : load_strip(s, z, k, 2));
      b = _mm512_castsi512_ps(kWhole ? gather4(from + 16, 4 * s.stride)
                                     : load_strip(s, z, k + 8, 2));
    }
    _mm512_store_ps(panel, a);
    _mm512_store_ps(panel + 256, b);
  }
}

template <bool kFp8>
inline void pack_columns(const Strip& s, int64_t k0, int depth, uint8_t* panel) {
  for (int64_t begin = k0; begin < k0 + depth; begin += kBlock) {
    int64_t end = begin + kBlock < k0 + depth ? begin + kBlock : k0 + depth;
    Table table = make_table(kFp8 && s.scale ? s.scale[begin / kBlock] : 1.0f);
    int64_t k = begin;
    if (s.rows == kStripRows)
      for (; k + kStep <= end; k += kStep, panel += 512) pack_step<kFp8, true>(s, table, k, panel);
    for (; k < end; k += kStep, panel += 512) pack_step<kFp8, false>(s, table, k, panel);
  }
}

void pack_bf16(const Strip& s, int64_t k0, int depth, uint8_t* panel) {
  if (s.code == WeightCode::fp8)
    pack_columns<true>(s, k0, depth, panel);
  else
    pack_columns<false>(s, k0, depth, panel);
}

// ------------------------------------------------------------------------------------- streams

// The 16 rows are `stride` apart, which hardware prefetchers do not follow. So each cache line
// prefetches the one kAhead bytes further in its row, or in the next strip. With 16 rows that
// covers the latency of memory at the rate at which one core reads.
constexpr int64_t kAhead = 256;

// Columns [begin, end) of weight rows z0 .. z0 + kZ (and 4, 8, 12 further on) under one scale: each
// step of 16 columns is expanded once and meets all kRows activations from registers.
template <int kRows, int kZ, bool kFp8>
inline void stream_columns(const StreamJob& job, const Table& table, int z0, int64_t begin,
                           int64_t end, __m512 (&a)[kRows][kZ]) {
  constexpr int kSize = kFp8 ? 1 : 2;
  const Strip& s = job.strip;
  const int64_t stride = s.stride, stride4 = 4 * stride, row_bytes = s.columns * kSize;
  for (int64_t line = begin * kSize; line < end * kSize; line += 64) {
    const int64_t ahead = line + kAhead;
    const uint8_t* p = ahead < row_bytes ? s.data + ahead : job.next + (ahead - row_bytes);
    for (int r = 0; r < 4 * kZ; ++r)
      _mm_prefetch(reinterpret_cast<const char*>(p + (r / kZ * 4 + r % kZ + z0) * stride),
                   _MM_HINT_T0);
    int64_t stop = (line + 64) / kSize < end ? (line + 64) / kSize : end;
    for (int64_t k = line / kSize; k < stop; k += kStep) {
      const uint8_t* from = s.data + z0 * stride + k * kSize;
      __m512 w[kZ][2];
#pragma GCC unroll 4
      for (int z = 0; z < kZ; ++z, from += stride) {
        if constexpr (kFp8) {
          expand(table, gather4(from, stride4), &w[z][0], &w[z][1]);
        } else {
          w[z][0] = _mm512_castsi512_ps(gather4(from, stride4));
          w[z][1] = _mm512_castsi512_ps(gather4(from + 16, stride4));
        }
      }
      const uint8_t* x = job.x + k / 8 * (16 * kRows);
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h)
#pragma GCC unroll 12
        for (int m = 0; m < kRows; ++m, x += 16) {
          __m512 unit = V::broadcast_unit(x);
#pragma GCC unroll 4
          for (int z = 0; z < kZ; ++z) a[m][z] = DotBf16::add(a[m][z], unit, w[z][h]);
        }
    }
  }
}

// The registers hold the sums of kRows x 4 kZ outputs, 4 lanes each; with many activations the
// weight rows take turns.
template <int kRows, bool kFp8>
void stream_rows(const StreamJob& job) {
  constexpr int kZ = kRows <= 4 ? 4 : 2;
  const Strip& s = job.strip;
  const bool scaled = job.w_scale != nullptr;
  const int64_t block = scaled ? kBlock : kDepth;
  ScaledTable table;
  __m512 sum[kRows];
  for (int m = 0; m < kRows; ++m) sum[m] = _mm512_setzero_ps();
  for (int64_t begin = 0; begin < s.columns; begin += block) {
    const int64_t end = begin + block < s.columns ? begin + block : s.columns;
    __m512 lanes[kRows][4];
    for (int z0 = 0; z0 < 4; z0 += kZ) {
      __m512 a[kRows][kZ];
      for (int m = 0; m < kRows; ++m)
        for (int z = 0; z < kZ; ++z) a[m][z] = _mm512_setzero_ps();
      for (int64_t k0 = begin; k0 < end; k0 += kBlock) {
        if (kFp8 && s.scale) table.set(s.scale[k0 / kBlock]);
        stream_columns<kRows, kZ, kFp8>(job, table.table, z0, k0,
                                        k0 + kBlock < end ? k0 + kBlock : end, a);
      }
      for (int m = 0; m < kRows; ++m)
        for (int z = 0; z < kZ; ++z) lanes[m][z0 + z] = a[m][z];
    }
    for (int m = 0; m < kRows; ++m) {
      __m512 part = add_lanes(lanes[m]);
      if (scaled) {
        part = _mm512_mul_ps(part, _mm512_set1_ps(job.x_scale[m][begin / kBlock]));
        part = _mm512_mul_ps(part, _mm512_set1_ps(job.w_scale[begin / kBlock]));
      }
      sum[m] = _mm512_add_ps(sum[m], part);
    }
  }
  for (int m = 0; m < kRows; ++m)
    store_outputs(job.out, job.out_bf16, m * job.out_stride, kStripRows, sum[m]);
}

template <bool kFp8, int kMax>
void stream_code(const StreamJob& job) {
  if constexpr (kMax > 1) {
    if (job.rows < kMax) return stream_code<kFp8, kMax - 1>(job);
  }
  stream_rows<kMax, kFp8>(job);
}

void stream_bf16(const StreamJob& job) {
  job.strip.code == WeightCode::fp8 ? stream_code<true, kStreamRows>(job)
                                    : stream_code<false, kStreamRows>(job);
}

}  // namespace

const GemmKernels kGemmAvx512 = {
    .name = "avx512",
    .f32 = {pack_f32, tile_f32, stream_strip, kStreamRowsF32, sizeof(V::F)},
    .bf16 = {pack_bf16, tile<DotBf16>, stream_bf16, kStreamRows, 16},
    .prepare = prepare,
    .norm = norm,
    .silu = silu,
    .combine = combine,
};

}  // namespace fathom
#endif
