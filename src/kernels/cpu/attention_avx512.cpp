// Attention kernels for AVX-512 with VBMI and BF16. Nothing here may be inline in the linker's
// eyes: all helpers live in an anonymous namespace, and of the project only plain declarations are
// included.
#include "kernels/cpu/attention_kernels.h"

#if defined(__x86_64__)
// GCC 12's own intrinsics read a variable before its first assignment, on purpose (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

namespace fathom {
namespace {

constexpr int kProductRows = 6, kSlice = 4;  // 24 accumulators and 4 panel registers of 32
constexpr int kIndexHeads = 4, kDotSums = 16;

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
inline F as_floats(W x) { return _mm512_castsi512_ps(x); }
inline W as_words(F x) { return _mm512_castps_si512(x); }
inline F dot_pairs(F acc, W a, W b) {
  return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}
inline void store_bf16(uint16_t* p, F x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)));
}
inline F round_bf16(F x) {
  __m256i bits = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
  return as_floats(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline F load_bf16(const uint16_t* p) {
  __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return as_floats(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

// Orders of 16-bit elements: those of two registers side by side, taken alternately.
struct Alternate {
  alignas(64) uint16_t low[32], high[32], own[32];
  constexpr Alternate() : low(), high(), own() {
    for (int i = 0; i < 16; ++i) {
      low[2 * i] = static_cast<uint16_t>(i), low[2 * i + 1] = static_cast<uint16_t>(32 + i);
      high[2 * i] = static_cast<uint16_t>(16 + i), high[2 * i + 1] = static_cast<uint16_t>(48 + i);
      own[2 * i] = static_cast<uint16_t>(i), own[2 * i + 1] = static_cast<uint16_t>(16 + i);
    }
  }
};
constexpr Alternate kAlternate;

inline void interleave(const uint16_t* even, const uint16_t* odd, W& first, W& second) {
  W a = load_words(even), b = load_words(odd);
  first = _mm512_permutex2var_epi16(a, load_words(kAlternate.low), b);
  second = _mm512_permutex2var_epi16(a, load_words(kAlternate.high), b);
}

inline W round_words(F even, F odd) {
  W x = reinterpret_cast<W>(_mm512_cvtne2ps_pbh(odd, even));
  return _mm512_permutexvar_epi16(load_words(kAlternate.own), x);
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

// The 128 magnitudes of e4m3 as bf16, low and high bytes apart: what two vpermi2b look up.
struct CodeTable {
  alignas(64) uint8_t low[128], high[128];
  alignas(64) uint16_t value[128];
  constexpr CodeTable() : low(), high(), value() {
    for (int code = 0; code < 128; ++code) {
      int exponent = code >> 3, mantissa = code & 7;
      int bits = ((exponent + 120) << 7) | (mantissa << 4);
      if (exponent == 0) {  // mantissa * 2^-9, normal in bf16
        int top = mantissa >= 4 ? 2 : mantissa >= 2 ? 1 : 0;
        bits = mantissa == 0 ? 0 : ((118 + top) << 7) | (((mantissa << (7 - top)) & 0x7F));
      }
      if (code == 127) bits = 0x7FC0;
      low[code] = static_cast<uint8_t>(bits & 255);
      high[code] = static_cast<uint8_t>(bits >> 8);
      value[code] = static_cast<uint16_t>(bits);
    }
  }
};
constexpr CodeTable kCodes;

// A table of bytes in registers, and 64 codes looked up in it as bf16 in order.
struct CodeLookup {
  W low0, low1, high0, high1;

  static CodeLookup of(const uint8_t* low, const uint8_t* high) {
    return {load_words(low), load_words(low + 64), load_words(high), load_words(high + 64)};
  }
  // Low and high bytes of the values, in the order of the codes.
  void bytes(W code, W& low, W& high) const {
    low = _mm512_permutex2var_epi8(low0, code, low1);
    high = _mm512_permutex2var_epi8(high0, code, high1);
    high = _mm512_ternarylogic_epi64(high, code, _mm512_set1_epi8(static_cast<char>(0x80)), 0xF8);
  }
  void operator()(const uint8_t* code, W& first, W& second) const {
    // Quadwords are dealt out so that the in-lane unpacking leaves the codes in order.
    W order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), low, high;
    bytes(_mm512_permutexvar_epi64(order, load_words(code)), low, high);
    first = _mm512_unpacklo_epi8(low, high);
    second = _mm512_unpackhi_epi8(low, high);
  }
};

inline F load_fp8(const uint8_t* code) {
  __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(code));
  W wide = _mm512_cvtepu8_epi32(x);
  W magnitude = _mm512_and_si512(wide, _mm512_set1_epi32(0x7F));
  W sign = _mm512_slli_epi32(_mm512_and_si512(wide, _mm512_set1_epi32(0x80)), 24);
  // As float32 bits 2^120 too small; the product makes normal and subnormal codes right alike.
  F value = mul(as_floats(_mm512_slli_epi32(magnitude, 20)), splat(0x1p120f));
  __mmask16 nan = _mm512_cmpeq_epi32_mask(magnitude, _mm512_set1_epi32(0x7F));
  W bits = _mm512_or_si512(_mm512_castps_si512(value), sign);
  return as_floats(_mm512_mask_mov_epi32(bits, nan, _mm512_set1_epi32(0x7FC00000)));
}

#include "kernels/cpu/attention_kernels_inl.h"
#include "kernels/cpu/attention_pairs_inl.h"

// One group of a cache row: too short for a table of its own.
void dequantise_row(const uint8_t* code, float scale, uint16_t* out) {
  CodeLookup lookup = CodeLookup::of(kCodes.low, kCodes.high);
  for (int i = 0; i < 128; i += 64) {
    alignas(64) uint16_t value[64];
    W first, second;
    lookup(code + i, first, second);
    store_words(value, first);
    store_words(value + 32, second);
    for (int j = 0; j < 64; j += 16)
      store_bf16(out + i + j, mul(load_bf16(value + j), splat(scale)));
  }
}

// A block has one scale, so its 128 possible magnitudes are rounded once and looked up.
CodeLookup scaled_lookup(float scale) {
  alignas(64) uint8_t low[128], high[128];
  W bytes = _mm512_set1_epi16(255);
  for (int i = 0; i < 128; i += 32) {
    alignas(64) uint16_t value[32];
    for (int j = 0; j < 32; j += 16)
      store_bf16(value + j, mul(load_bf16(kCodes.value + i + j), splat(scale)));
    W x = load_words(value);
    _mm256_store_si256(reinterpret_cast<__m256i*>(low + i),
                       _mm512_cvtepi16_epi8(_mm512_and_si512(x, bytes)));
    _mm256_store_si256(reinterpret_cast<__m256i*>(high + i),
                       _mm512_cvtepi16_epi8(_mm512_srli_epi16(x, 8)));
  }
  return CodeLookup::of(low, high);
}

// Rows of a block lie a row of the whole matrix apart, which prefetchers do not follow.
constexpr int kRowsAhead = 12;

void dequantise_bf16(const uint8_t* code, int64_t ld, int rows, float scale, uint16_t* out,
                     int64_t ldo) {
  if (rows == 1) return dequantise_row(code, scale, out);
  CodeLookup lookup = scaled_lookup(scale);
  for (int r = 0; r < rows; ++r)
    for (int i = 0; i < 128; i += 64) {
      W first, second;
      _mm_prefetch(code + (r + kRowsAhead) * ld + i, _MM_HINT_T0);
      lookup(code + r * ld + i, first, second);
      store_words(out + r * ldo + i, first);
      store_words(out + r * ldo + i + 32, second);
    }
}

void dequantise_pairs(const uint8_t* code, int64_t ld, int pairs, float scale, uint32_t* out,
                      int64_t ldo) {
  CodeLookup lookup = scaled_lookup(scale);
  // Groups of four codes are dealt out so that two levels of in-lane unpacking restore the order.
  W order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  for (int p = 0; p < pairs; ++p)
    for (int i = 0; i < 128; i += 64) {
      const uint8_t* even = code + 2 * p * ld + i;
      _mm_prefetch(even + kRowsAhead * ld, _MM_HINT_T0);
      _mm_prefetch(even + (kRowsAhead + 1) * ld, _MM_HINT_T0);
      W low_a, high_a, low_b, high_b;
      lookup.bytes(_mm512_permutexvar_epi32(order, load_words(even)), low_a, high_a);
      lookup.bytes(_mm512_permutexvar_epi32(order, load_words(even + ld)), low_b, high_b);
      W a0 = _mm512_unpacklo_epi8(low_a, high_a), a1 = _mm512_unpackhi_epi8(low_a, high_a);
      W b0 = _mm512_unpacklo_epi8(low_b, high_b), b1 = _mm512_unpackhi_epi8(low_b, high_b);
      uint32_t* to = out + p * ldo + i;
      store_words(to, _mm512_unpacklo_epi16(a0, b0));
      store_words(to + 16, _mm512_unpackhi_epi16(a0, b0));
      store_words(to + 32, _mm512_unpacklo_epi16(a1, b1));
      store_words(to + 48, _mm512_unpackhi_epi16(a1, b1));
    }
}

// The conversion instruction takes subnormal numbers for zero; cache entries are exact.
void round_exactly(const float* x, int64_t n, uint16_t* out) {
  for (int64_t i = 0; i < n; i += 16) {
    F value = load(x + i);
    W u = _mm512_castps_si512(value);
    W odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    W r = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7FFF)), odd);
    __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    r = _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x400000));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                        _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16)));
  }
}

// 16 x 16 words: rows become columns.
void transpose(W (&x)[16]) {
  W y[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    y[2 * i] = _mm512_unpacklo_epi32(x[2 * i], x[2 * i + 1]);
    y[2 * i + 1] = _mm512_unpackhi_epi32(x[2 * i], x[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    x[4 * i] = _mm512_unpacklo_epi64(y[4 * i], y[4 * i + 2]);
    x[4 * i + 1] = _mm512_unpackhi_epi64(y[4 * i], y[4 * i + 2]);
    x[4 * i + 2] = _mm512_unpacklo_epi64(y[4 * i + 1], y[4 * i + 3]);
    x[4 * i + 3] = _mm512_unpackhi_epi64(y[4 * i + 1], y[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    y[i] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0x88);
    y[i + 4] = _mm512_shuffle_i32x4(x[i], x[i + 4], 0xDD);
    y[i + 8] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0x88);
    y[i + 12] = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0xDD);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    x[i] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0x88);
    x[i + 8] = _mm512_shuffle_i32x4(y[i], y[i + 8], 0xDD);
    x[i + 4] = _mm512_shuffle_i32x4(y[i + 4], y[i + 12], 0x88);
    x[i + 12] = _mm512_shuffle_i32x4(y[i + 4], y[i + 12], 0xDD);
  }
}

void pack_lanes(const void* const* rows, int words, uint32_t* out) {
  for (int r = 0; r < kPanelWidth; r += 16)
    for (int k = 0; k < words; k += 16) {
      W x[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i)
        x[i] = rows[r + i] ? load_words(words_at(rows[r + i], k)) : _mm512_setzero_si512();
      transpose(x);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) store_words(out + (k + i) * kPanelWidth + r, x[i]);
    }
}

void pack_pairs(const void* const* rows, int pairs, int columns, uint32_t* out, int64_t ldo) {
  for (int p = 0; p < pairs; ++p) {
    const uint16_t* even = static_cast<const uint16_t*>(rows[2 * p]);
    const uint16_t* odd = static_cast<const uint16_t*>(rows[2 * p + 1]);
    for (int c = 0; c < columns; c += 32) {
      W first, second;
      interleave(even + c, odd + c, first, second);
      store_words(out + p * ldo + c, first);
      store_words(out + p * ldo + c + 16, second);
    }
  }
}

// ---------------------------------------------------------------------------- top-k

inline __mmask16 lanes_below(int64_t n) {
  return n >= 16 ? static_cast<__mmask16>(0xFFFF) : static_cast<__mmask16>((1U << n) - 1);
}

void order_keys(const float* score, int64_t n, uint32_t* keys, uint32_t* least,
                uint32_t* greatest) {
  W top = _mm512_set1_epi32(static_cast<int>(0x80000000)), low = _mm512_set1_epi32(-1);
  W high = _mm512_setzero_si512();
  for (int64_t i = 0; i < n; i += 16) {
    __mmask16 in = lanes_below(n - i);
    W bits = _mm512_castps_si512(add(_mm512_maskz_loadu_ps(in, score + i), zero()));  // -0 = +0
    W flip = _mm512_or_si512(_mm512_srai_epi32(bits, 31), top);
    W key = _mm512_xor_si512(bits, flip);
    _mm512_mask_storeu_epi32(keys + i, in, key);
    low = _mm512_mask_min_epu32(low, in, low, key);
    high = _mm512_mask_max_epu32(high, in, high, key);
  }
  *least = _mm512_reduce_min_epu32(low);
  *greatest = _mm512_reduce_max_epu32(high);
}

int64_t count_at_least(const uint32_t* keys, int64_t n, uint32_t bound) {
  W b = _mm512_set1_epi32(static_cast<int>(bound));
  int64_t count = 0;
  for (int64_t i = 0; i < n; i += 16) {
    __mmask16 in = lanes_below(n - i);
    W x = _mm512_maskz_loadu_epi32(in, keys + i);
    count += __builtin_popcount(_mm512_mask_cmpge_epu32_mask(in, x, b));
  }
  return count;
}

// Compressing in a register and storing under a mask: the compressing store is slow on Zen.
inline int store_chosen(uint32_t* out, __mmask16 chosen, W x) {
  int count = __builtin_popcount(chosen);
  _mm512_mask_storeu_epi32(out, lanes_below(count), _mm512_maskz_compress_epi32(chosen, x));
  return count;
}

int64_t keep(const uint32_t* keys, int64_t n, uint32_t bound, bool at_least, uint32_t* out) {
  W b = _mm512_set1_epi32(static_cast<int>(bound));
  __mmask16 flip = at_least ? 0 : 0xFFFF;
  int64_t kept = 0;
  for (int64_t i = 0; i < n; i += 16) {
    __mmask16 in = lanes_below(n - i);
    W x = _mm512_maskz_loadu_epi32(in, keys + i);
    kept += store_chosen(out + kept, (_mm512_cmpge_epu32_mask(x, b) ^ flip) & in, x);
  }
  return kept;
}

void emit(const uint32_t* keys, int64_t n, uint32_t bound, int64_t ties, int32_t* out) {
  W b = _mm512_set1_epi32(static_cast<int>(bound));
  W position = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  uint32_t* to = reinterpret_cast<uint32_t*>(out);
  for (int64_t i = 0; i < n; i += 16) {
    __mmask16 in = lanes_below(n - i);
    W x = _mm512_maskz_loadu_epi32(in, keys + i);
    unsigned chosen = _mm512_mask_cmpgt_epu32_mask(in, x, b);
    unsigned equal = ties > 0 ? _mm512_mask_cmpeq_epu32_mask(in, x, b) : 0;
    for (; equal != 0 && ties > 0; --ties, equal &= equal - 1) chosen |= equal & (0U - equal);
    if (chosen) to += store_chosen(to, static_cast<__mmask16>(chosen), position);
    position = _mm512_add_epi32(position, _mm512_set1_epi32(16));
  }
}

}  // namespace

const AttentionKernels kAttentionAvx512 = {
    .name = "avx512",
    .f32 = {product<FloatElement>, dot_floats, mix_floats, softmax<FloatElement>,
            index_tile<FloatElement>},
    .bf16 = {product<PairElement>, dots_of<PairElement, WordRow>, mix_pairs, softmax<PairElement>,
             index_tile<PairElement>},
    .pairs = true,
    .pack_lanes = pack_lanes,
    .pack_pairs = pack_pairs,
    .round_pairs = round_pairs,
    .dequantise_pairs = dequantise_pairs,
    .dequantise_bf16 = dequantise_bf16,
    .dequantise_f32 = dequantise_f32,
    .to_bf16 = to_bf16_scaled,
    .to_rounded = to_rounded,
    .round = round_exactly,
    .to_f32 = to_f32,
    .order_keys = order_keys,
    .count_at_least = count_at_least,
    .keep = keep,
    .emit = emit,
};

}  // namespace fathom
#endif
