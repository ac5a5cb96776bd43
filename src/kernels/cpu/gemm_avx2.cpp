// AVX2 and FMA: no bf16 products here, so activations and weights meet as float32 (their values are
// rounded to bf16 all the same where the numerics ask for it).
#if defined(__x86_64__)
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/gemm.h"

namespace fathom {
namespace {

#include "kernels/cpu/fp8_avx2_inl.h"
#include "kernels/cpu/transpose_avx2_inl.h"

struct V {
  using F = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kTileRows = 3;     // x 4 accumulators, 3 activations, 1 weight: 16 registers
  static constexpr int kStreamSums = 12;  // accumulators beside the weights being expanded
  static constexpr int kWordSums = 8;     // the same where each activation is a vector, too

  static F zero() { return _mm256_setzero_ps(); }
  static F set1(float v) { return _mm256_set1_ps(v); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F v) { _mm256_storeu_ps(p, v); }
  static F load_bf16(const uint16_t* p) {
    __m256i w = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
  }
  static void store_bf16(uint16_t* p, F v) {
    __m256i r = _mm256_srli_epi32(_mm256_castps_si256(round_bf16(v)), 16);
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), words);
  }
  static F round_bf16(F v) {
    __m256i u = _mm256_castps_si256(v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    // A NaN is made quiet instead: the carry of the rounding could run into its sign.
    __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    r = _mm256_blendv_epi8(r, quiet, _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)));
    return _mm256_castsi256_ps(_mm256_and_si256(r, _mm256_set1_epi32(-0x10000)));
  }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F abs(F a) { return _mm256_andnot_ps(set1(-0.0f), a); }
  static F round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // 2^n is applied as two factors, since it may lie outside the range of float32.
  static F scale_by_power(F a, F n) {
    __m256i whole = _mm256_cvtps_epi32(n), part = _mm256_srai_epi32(whole, 1);
    return mul(mul(a, power(part)), power(_mm256_sub_epi32(whole, part)));
  }
  static float greatest(F a) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
  }
  static float sum(F a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
  }
  // Sums of the lanes of four vectors. Order: neighbours, pairs of neighbours, then the two halves.
  static __m128 lane_sums(const F (&a)[4]) {
    F s = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
    return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  }

  // Rows become columns.
  static void transpose(F (&x)[kLanes]) {
    __m256i words[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes; ++i) words[i] = _mm256_castps_si256(x[i]);
    fathom::transpose(words);
#pragma GCC unroll 8
    for (int i = 0; i < kLanes; ++i) x[i] = _mm256_castsi256_ps(words[i]);
  }

  // Widens four values to a vector; the other lanes are undefined.
  static F of_quad(__m128 v) { return _mm256_castps128_ps256(v); }

  static F load_f16(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  // Of FP8 codes: fp8_avx2_inl.h.
  using Codes = __m256i;
  static Codes no_codes() { return _mm256_setzero_si256(); }
  static bool has_nan(Codes seen) { return fp8_nan_seen(seen); }
  [[gnu::always_inline]] static void halves_of_fp8(const uint8_t* p, F (&w)[4], Codes& seen) {
    fp8_halves(p, w, seen);
  }
  static F load_fp8(const uint8_t* p) { return fp8_values(p); }

  // Of QWeight::words: a word of 8 rows.
  using Words = __m256i;
  static Words load_words(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  template <bool kOdd>
  [[gnu::always_inline]] static void half_of_codes(Words x, F (&w)[2]) {
    fp8_of_words<kOdd>(x, w);
  }
  static F lower_bf16(Words x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
  static F upper_bf16(Words x) {
    return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(-0x10000)));
  }
  // In each lane: the sum of x in the order in which lane_sums adds lanes.
  static F sum_in_lane_order(const F (&x)[kLanes]) {
    return add(add(add(x[0], x[1]), add(x[2], x[3])), add(add(x[4], x[5]), add(x[6], x[7])));
  }

  // Rounds |v| <= 448 to e4m3. Normal values are rounded at mantissa bit 20. Below 2^-6 the step of
  // e4m3 is 2^-9, the last place of 2^14, so adding and subtracting 2^14 rounds to it.
  static F round_e4m3(F v) {
    __m256i bits = _mm256_castps_si256(abs(v));
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 20), _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFFF)));
    F normal = _mm256_castsi256_ps(_mm256_and_si256(up, _mm256_set1_epi32(-0x100000)));
    F small = sub(add(abs(v), set1(16384.0f)), set1(16384.0f));
    F r = _mm256_blendv_ps(normal, small, _mm256_cmp_ps(abs(v), set1(0.015625f), _CMP_LT_OQ));
    r = _mm256_or_ps(r, _mm256_and_ps(v, set1(-0.0f)));
    return _mm256_blendv_ps(r, v, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  }

 private:
  static F power(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
  }
};

#include "kernels/cpu/gemm_inl.h"
#include "kernels/cpu/product_f32_inl.h"
#include "kernels/cpu/product_outer_inl.h"
#include "kernels/cpu/product_words_inl.h"
#include "kernels/cpu/rows_inl.h"

}  // namespace

const GemmKernels kGemmAvx2 = {
    .name = "avx2",
    .f32 = {.pack = pack_f32,
            .tile = tile_f32,
            .stream = stream_f32,
            .stream_rows = kStreamRowsF32,
            .stream_unit = sizeof(V::F),
            .lift = lift,
            .pack_many = pack_outer,
            .tile_many = tile_outer,
            .many_rows = kOuterRows,
            .row_block = kOuterRowBlock},
    .bf16 = {},
    .prepare = prepare,
    .norm = norm,
    .silu = silu,
    .combine = combine,
};

}  // namespace fathom
#endif
