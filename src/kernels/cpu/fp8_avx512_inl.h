// FP8 codes (numerics/fp8.h) as float32 in registers of 512 bits: fp8_avx2_inl.h has the reasons.

[[gnu::always_inline]] inline __m512 fp8_values(const uint8_t* p) {
  __m512i c = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  __m512i magnitude = _mm512_and_si512(c, _mm512_set1_epi32(0x7F));
  __m512i sign = _mm512_slli_epi32(_mm512_xor_si512(c, magnitude), 24);
  __m512 value = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(magnitude, 20)),
                               _mm512_set1_ps(0x1p120f));
  __mmask16 nan = _mm512_cmpeq_epi32_mask(magnitude, _mm512_set1_epi32(0x7F));
  __m512i bits = _mm512_or_si512(_mm512_castps_si512(value), sign);
  return _mm512_castsi512_ps(_mm512_mask_mov_epi32(bits, nan, _mm512_set1_epi32(0x7FC00000)));
}

[[gnu::always_inline]] inline void fp8_halves(const uint8_t* p, __m512 (&w)[2], __m256i& seen) {
  __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  seen = _mm256_max_epu8(seen, _mm256_and_si256(codes, _mm256_set1_epi8(0x7F)));
  __m512i words = _mm512_slli_epi16(_mm512_cvtepi8_epi16(codes), 7);
  __m512i halves = _mm512_and_si512(words, _mm512_set1_epi16(-0x4001));
  w[0] = _mm512_cvtph_ps(_mm512_castsi512_si256(halves));
  w[1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(halves, 1));
}

template <bool kOdd>
[[gnu::always_inline]] inline void fp8_of_words(__m512i words, __m512 (&w)[2]) {
  const __m512i halves = _mm512_srai_epi16(kOdd ? words : _mm512_slli_epi16(words, 8), 4);
  const __m512i mask = _mm512_set1_epi32(static_cast<int>(0x87F00000));
  w[0] = _mm512_castsi512_ps(_mm512_and_si512(_mm512_slli_epi32(halves, 16), mask));
  w[1] = _mm512_castsi512_ps(_mm512_and_si512(halves, mask));
}

inline bool fp8_nan_seen(__m256i seen) {
  return _mm256_movemask_epi8(_mm256_cmpeq_epi8(seen, _mm256_set1_epi8(0x7F))) != 0;
}
