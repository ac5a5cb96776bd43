// FP8 codes as bf16 values by table look-up in registers, already multiplied by their scale. For
// AVX-512 with VBMI and BF16; included like gemm_inl.h, after V.

// bf16 values of the 128 magnitudes of e4m3.
struct Magnitudes {
  alignas(64) uint16_t bits[128];
  constexpr Magnitudes() : bits() {
    for (int code = 0; code < 128; ++code) {
      int exponent = code >> 3, mantissa = code & 7;
      if (exponent == 0) {  // mantissa * 2^-9: normalise
        int shift = 0;
        while (mantissa != 0 && !(mantissa & 8)) {
          mantissa *= 2;
          ++shift;
        }
        exponent = mantissa ? 1 - shift : -120;
        mantissa &= 7;
      }
      bits[code] =
          code == 127 ? 0x7FC0 : static_cast<uint16_t>((exponent + 120) << 7 | mantissa << 4);
    }
  }
};
constexpr Magnitudes kMagnitudes;

// The same split into bytes, as they are and doubled. Times 4^n, which changes the high byte alone,
// that gives every power-of-two scale.
struct SplitMagnitudes {
  alignas(64) uint8_t low[2][128], high[2][128];
  constexpr SplitMagnitudes() : low(), high() {
    for (int odd = 0; odd < 2; ++odd)
      for (int code = 0; code < 128; ++code) {
        bool finite = code != 0 && code != 127;
        int bits = kMagnitudes.bits[code] + (finite ? odd << 7 : 0);
        low[odd][code] = static_cast<uint8_t>(bits & 255);
        high[odd][code] = static_cast<uint8_t>(bits >> 8);
      }
  }
};
constexpr SplitMagnitudes kSplitMagnitudes;

struct ByteIndex {
  alignas(64) uint8_t even[64], odd[64];
  constexpr ByteIndex() : even(), odd() {
    for (int i = 0; i < 64; ++i) {
      even[i] = static_cast<uint8_t>(2 * i);
      odd[i] = static_cast<uint8_t>(2 * i + 1);
    }
  }
};
constexpr ByteIndex kByteIndex;

// The 128 magnitudes times a scale, rounded to bf16 (exact for powers of two), split in bytes.
struct Table {
  __m512i low[2], high[2];
};

// A power-of-two scale is added to the exponents. The exponent's lowest bit is the top bit of the
// low byte: an odd power takes the doubled table. The rest is added to the high byte. Zero and NaN
// have no exponent and stay unchanged.
inline Table shifted_table(int exponent) {
  Table t;
  int odd = exponent & 1;
  __m512i add = _mm512_set1_epi8(static_cast<char>((exponent - odd) / 2));
  for (int half = 0; half < 2; ++half) {
    t.low[half] = _mm512_load_si512(kSplitMagnitudes.low[odd] + 64 * half);
    __m512i high = _mm512_load_si512(kSplitMagnitudes.high[odd] + 64 * half);
    t.high[half] = _mm512_mask_add_epi8(high, half ? ~0ULL >> 1 : ~1ULL, high, add);
  }
  return t;
}

inline Table make_table(float scale) {
  uint32_t bits;
  memcpy(&bits, &scale, 4);
  int exponent = static_cast<int>(bits >> 23) - 127;
  // Within this range no product leaves the normal numbers of bf16.
  if ((bits & 0x807FFFFF) == 0 && exponent > -110 && exponent < 110) return shifted_table(exponent);
  Table t;
  __m512i even = _mm512_load_si512(kByteIndex.even), odd = _mm512_load_si512(kByteIndex.odd);
  for (int half = 0; half < 2; ++half) {
    __m512i words[2];
    for (int i = 0; i < 2; ++i) {
      const uint16_t* from = kMagnitudes.bits + half * 64 + i * 32;
      __m512 a = _mm512_mul_ps(V::load_bf16(from), _mm512_set1_ps(scale));
      __m512 b = _mm512_mul_ps(V::load_bf16(from + 16), _mm512_set1_ps(scale));
      words[i] = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a));
    }
    t.low[half] = _mm512_permutex2var_epi8(words[0], even, words[1]);
    t.high[half] = _mm512_permutex2var_epi8(words[0], odd, words[1]);
  }
  return t;
}

// 4 rows x 16 codes -> two vectors of 4 rows x 8 bf16.
inline void expand(const Table& t, __m512i codes, __m512* first, __m512* second) {
  __m512i low = _mm512_permutex2var_epi8(t.low[0], codes, t.low[1]);
  __m512i high = _mm512_permutex2var_epi8(t.high[0], codes, t.high[1]);
  // high ^ (codes & 0x80): the sign.
  high = _mm512_ternarylogic_epi32(high, codes, _mm512_set1_epi8(-128), 0x78);
  *first = _mm512_castsi512_ps(_mm512_unpacklo_epi8(low, high));
  *second = _mm512_castsi512_ps(_mm512_unpackhi_epi8(low, high));
}

// A table and the scale it was made for: neighbouring blocks often have the same.
struct ScaledTable {
  float scale = 1.0f;
  Table table = make_table(1.0f);
  void set(float value) {
    if (value == scale) return;
    scale = value;
    table = make_table(value);
  }
};
