// The vector operations of gemm_inl.h in 512 bits. Included by files that define, before it,
//   __m256i to_bf16_bits(__m512 v)   16 values rounded to bf16, nearest even; NaN stays NaN
// because processors with AVX-512 differ in having an instruction for that.

#include "kernels/cpu/fp8_avx512_inl.h"

struct V {
  using F = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kTileRows = 6;     // x 4 accumulators, and up to 7 operands: 31 registers
  static constexpr int kStreamSums = 24;  // accumulators besides the weights being expanded
  static constexpr int kWordSums = 24;

  static F zero() { return _mm512_setzero_ps(); }
  static F set1(float v) { return _mm512_set1_ps(v); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static F load_bf16(const uint16_t* p) {
    __m512i w = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
  }
  static void store_bf16(uint16_t* p, F v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bf16_bits(v));
  }
  static F round_bf16(F v) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(to_bf16_bits(v)), 16));
  }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F abs(F a) { return _mm512_abs_ps(a); }
  static F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT); }
  static F scale_by_power(F a, F n) { return _mm512_scalef_ps(a, n); }
  static float greatest(F a) { return _mm512_reduce_max_ps(a); }
  static float sum(F a) { return _mm512_reduce_add_ps(a); }
  static F unpack_low(F a, F b) { return _mm512_unpacklo_ps(a, b); }
  static F unpack_high(F a, F b) { return _mm512_unpackhi_ps(a, b); }
  static F unpack_low_pairs(F a, F b) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }
  static F unpack_high_pairs(F a, F b) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }
  static F broadcast_unit(const uint8_t* p) {
    return _mm512_broadcast_f32x4(_mm_loadu_ps(reinterpret_cast<const float*>(p)));
  }
  // Sums of the lanes of four vectors. Order: halves, neighbours, pairs of neighbours, then the two
  // halves.
  static __m128 lane_sums(const F (&a)[4]) {
    auto fold = [](F x) {
      return _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    };
    __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(fold(a[0]), fold(a[1])),
                              _mm256_hadd_ps(fold(a[2]), fold(a[3])));
    return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  }

  // Widens four values to a vector; the other lanes are undefined.
  static F of_quad(__m128 v) { return _mm512_castps128_ps512(v); }

  static F load_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  // Of FP8 codes: fp8_avx512_inl.h.
  using Codes = __m256i;
  static Codes no_codes() { return _mm256_setzero_si256(); }
  static bool has_nan(Codes seen) { return fp8_nan_seen(seen); }
  [[gnu::always_inline]] static void halves_of_fp8(const uint8_t* p, F (&w)[2], Codes& seen) {
    fp8_halves(p, w, seen);
  }
  static F load_fp8(const uint8_t* p) { return fp8_values(p); }

  // Of QWeight::words: a word of 16 rows.
  using Words = __m512i;
  static Words load_words(const uint8_t* p) { return _mm512_loadu_si512(p); }
  template <bool kOdd>
  [[gnu::always_inline]] static void half_of_codes(Words x, F (&w)[2]) {
    fp8_of_words<kOdd>(x, w);
  }
  static F lower_bf16(Words x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); }
  static F upper_bf16(Words x) {
    return _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(-0x10000)));
  }
  // In each lane: the sum of x in the order in which lane_sums adds lanes.
  static F sum_in_lane_order(const F (&x)[kLanes]) {
    auto quad = [&](int i) {
      auto both = [&](int j) { return add(x[j], x[j + 8]); };
      return add(add(both(i), both(i + 1)), add(both(i + 2), both(i + 3)));
    };
    return add(quad(0), quad(4));
  }

  // Rounds |v| <= 448 to e4m3. Normal values are rounded at mantissa bit 20. Below 2^-6 the step of
  // e4m3 is 2^-9, the last place of 2^14, so adding and subtracting 2^14 rounds to it.
  static F round_e4m3(F v) {
    __m512i bits = _mm512_castps_si512(abs(v));
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 20), _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFFF)));
    F normal = _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32(-0x100000)));
    F small = sub(add(abs(v), set1(16384.0f)), set1(16384.0f));
    __mmask16 tiny = _mm512_cmp_ps_mask(abs(v), set1(0.015625f), _CMP_LT_OQ);
    F r = _mm512_mask_mov_ps(normal, tiny, small);
    r = _mm512_or_ps(r, _mm512_and_ps(v, set1(-0.0f)));
    return _mm512_mask_mov_ps(r, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), v);
  }
};
