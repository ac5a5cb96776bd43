// The vector layer of attention_kernels_inl.h in 512 bits, as far as every processor with AVX-512
// F, BW, DQ and VL has it. Included by the files of AVX-512 kernels, which add rounding to bf16:
//   F round_bf16(F), void store_bf16(uint16_t*, F)

#include "kernels/cpu/fp8_avx512_inl.h"

using F = __m512;
using W = __m512i;

inline F zero() { return _mm512_setzero_ps(); }
inline F splat(float x) { return _mm512_set1_ps(x); }
inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, F x) { _mm512_storeu_ps(p, x); }
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F fmadd(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F vmax(F a, F b) { return _mm512_max_ps(a, b); }
inline F round_even(F x) { return _mm512_roundscale_ps(x, 0); }
inline F times_power_of_two(F x, F n) { return _mm512_scalef_ps(x, n); }
inline float first_lane(F x) { return _mm512_cvtss_f32(x); }
inline float greatest_lane(F x) { return _mm512_reduce_max_ps(x); }
inline float sum_of_lanes(F x) { return _mm512_reduce_add_ps(x); }
inline F keep_lanes(uint64_t mask, F x, F other) {
  return _mm512_mask_mov_ps(other, static_cast<__mmask16>(mask), x);
}

inline W load_words(const void* p) { return _mm512_loadu_si512(p); }
inline void store_words(void* p, W x) { _mm512_storeu_si512(p, x); }
inline W splat_word(const uint32_t* p) {
  int x;
  __builtin_memcpy(&x, p, 4);
  return _mm512_set1_epi32(x);
}
// The two bf16 of each word as float32.
inline W lower_bf16(W x) { return _mm512_slli_epi32(x, 16); }
inline W upper_bf16(W x) { return _mm512_and_si512(x, _mm512_set1_epi32(-0x10000)); }
inline F as_floats(W x) { return _mm512_castsi512_ps(x); }
inline W as_words(F x) { return _mm512_castps_si512(x); }
inline F load_bf16(const uint16_t* p) {
  __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return as_floats(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

// Rounds as numerics/bf16.h does, to the bit: cache entries must be exact, and the conversion
// instruction of some processors flushes subnormal numbers to zero.
inline __m256i bf16_bits_exactly(F value) {
  W u = _mm512_castps_si512(value);
  W odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  W r = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7FFF)), odd);
  __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
  r = _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16));
}

// Sums of the lanes of 16 registers at once: each level adds halves of two registers and packs the
// results into one. The tree is the same for all 16.
void lane_sums(const F (&acc)[16], float* sums) {
  // Lane 4L + j of the result comes from register kFirst[L] + kSecond[j] of the list.
  constexpr int kFirst[4] = {0, 8, 4, 12}, kSecond[4] = {0, 2, 1, 3};
  F x[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) x[kFirst[i / 4] + kSecond[i % 4]] = acc[i];
  F a[8], b[4], c[2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i)
    a[i] =
        add(_mm512_shuffle_f32x4(x[i], x[i + 8], 0x44), _mm512_shuffle_f32x4(x[i], x[i + 8], 0xEE));
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    b[i] =
        add(_mm512_shuffle_f32x4(a[i], a[i + 4], 0x88), _mm512_shuffle_f32x4(a[i], a[i + 4], 0xDD));
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    __m512d p = _mm512_castps_pd(b[i]), q = _mm512_castps_pd(b[i + 2]);
    c[i] =
        add(_mm512_castpd_ps(_mm512_unpacklo_pd(p, q)), _mm512_castpd_ps(_mm512_unpackhi_pd(p, q)));
  }
  store(sums, add(_mm512_shuffle_ps(c[0], c[1], 0x88), _mm512_shuffle_ps(c[0], c[1], 0xDD)));
}

// Lanes of 128 bits: out[i] = (x[0][i], x[1][i], x[2][i], x[3][i]).
inline void transpose_quarters(const F (&x)[4], F (&out)[4]) {
  const F a = _mm512_shuffle_f32x4(x[0], x[1], 0x44), b = _mm512_shuffle_f32x4(x[0], x[1], 0xEE);
  const F c = _mm512_shuffle_f32x4(x[2], x[3], 0x44), d = _mm512_shuffle_f32x4(x[2], x[3], 0xEE);
  out[0] = _mm512_shuffle_f32x4(a, c, 0x88), out[1] = _mm512_shuffle_f32x4(a, c, 0xDD);
  out[2] = _mm512_shuffle_f32x4(b, d, 0x88), out[3] = _mm512_shuffle_f32x4(b, d, 0xDD);
}

// 64 codes: lane j of w[i] is code 4 j + i.
[[gnu::always_inline]] inline void load_code_words(const uint8_t* code, F (&w)[4]) {
  const W x = load_words(code);
  F even[2], odd[2];
  fp8_of_words<false>(x, even), fp8_of_words<true>(x, odd);
  w[0] = even[0], w[1] = odd[0], w[2] = even[1], w[3] = odd[1];
}
inline void store_word_lanes(float* c, const F (&x)[4]) {
  const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(x[0], x[1]));
  const __m512d b = _mm512_castps_pd(_mm512_unpacklo_ps(x[2], x[3]));
  const __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(x[0], x[1]));
  const __m512d e = _mm512_castps_pd(_mm512_unpackhi_ps(x[2], x[3]));
  const F lanes[4] = {
      _mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)),
      _mm512_castpd_ps(_mm512_unpacklo_pd(d, e)), _mm512_castpd_ps(_mm512_unpackhi_pd(d, e))};
  F columns[4];
  transpose_quarters(lanes, columns);
  for (int j = 0; j < 4; ++j) store(c + 16 * j, columns[j]);
}

inline F load_fp8(const uint8_t* code) { return fp8_values(code); }
[[gnu::always_inline]] inline void load_halves(const uint8_t* code, F (&w)[2], __m256i& seen) {
  fp8_halves(code, w, seen);
}
