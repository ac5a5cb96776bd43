// FP8 codes (numerics/fp8.h) as float32 in registers of 256 bits. Included inside anonymous
// namespaces only.

// Widens 8 codes. After the shift the exponent is 120 too small; one multiplication corrects that
// exactly, also for subnormal codes. The NaN code is set separately.
[[gnu::always_inline]] inline __m256 fp8_values(const uint8_t* p) {
  __m256i c = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  __m256i magnitude = _mm256_and_si256(c, _mm256_set1_epi32(0x7F));
  __m256i sign = _mm256_slli_epi32(_mm256_xor_si256(c, magnitude), 24);
  __m256 value = _mm256_mul_ps(_mm256_castsi256_ps(_mm256_slli_epi32(magnitude, 20)),
                               _mm256_set1_ps(0x1p120f));
  __m256i nan = _mm256_slli_epi32(_mm256_cmpeq_epi32(magnitude, _mm256_set1_epi32(0x7F)), 22);
  return _mm256_or_ps(value, _mm256_castsi256_ps(_mm256_or_si256(sign, nan)));
}

// Widens 32 codes by reading them as half-precision numbers, which gives 2^-8 of their values, also
// for subnormal codes. A NaN code becomes a finite number here: `seen` collects the greatest
// magnitudes, and fp8_nan_seen tells whether a NaN was among them.
[[gnu::always_inline]] inline void fp8_halves(const uint8_t* p, __m256 (&w)[4], __m256i& seen) {
  __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  seen = _mm256_max_epu8(seen, _mm256_and_si256(codes, _mm256_set1_epi8(0x7F)));
  auto half = [](__m256i word) {
    return _mm256_and_si256(_mm256_srai_epi16(word, 1), _mm256_set1_epi16(-0x4001));
  };
  __m256i low = half(_mm256_unpacklo_epi8(_mm256_setzero_si256(), codes));
  __m256i high = half(_mm256_unpackhi_epi8(_mm256_setzero_si256(), codes));
  w[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(low));
  w[1] = _mm256_cvtph_ps(_mm256_castsi256_si128(high));
  w[2] = _mm256_cvtph_ps(_mm256_extracti128_si256(low, 1));
  w[3] = _mm256_cvtph_ps(_mm256_extracti128_si256(high, 1));
}

// Every second one of the four codes of each word, as 2^-120 of its value: bytes 0 and 2, or 1 and
// 3. A NaN code becomes a finite number.
template <bool kOdd>
[[gnu::always_inline]] inline void fp8_of_words(__m256i words, __m256 (&w)[2]) {
  // Sign, four copies of it, magnitude: in the upper bits of both halves of a word.
  const __m256i halves = _mm256_srai_epi16(kOdd ? words : _mm256_slli_epi16(words, 8), 4);
  const __m256i mask = _mm256_set1_epi32(static_cast<int>(0x87F00000));
  w[0] = _mm256_castsi256_ps(_mm256_and_si256(_mm256_slli_epi32(halves, 16), mask));
  w[1] = _mm256_castsi256_ps(_mm256_and_si256(halves, mask));
}

inline bool fp8_nan_seen(__m256i seen) {
  return _mm256_movemask_epi8(_mm256_cmpeq_epi8(seen, _mm256_set1_epi8(0x7F))) != 0;
}
