// Attention kernels for AVX-512 with VBMI and BF16. All helpers live in an anonymous namespace, and
// only plain declarations of the project are included. Otherwise the linker could keep this file's
// copy of an inline function, compiled for AVX-512, for callers on older processors.
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
constexpr int kIndexHeads = 4, kDotSums = 16, kCodeRows = 4, kLiftedRows = 4;

#include "kernels/cpu/attention_vector512_inl.h"

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
// Index vectors that interleave the 16-bit elements of two registers.
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

#include "kernels/cpu/attention_kernels_inl.h"

#include "kernels/cpu/attention_pairs_inl.h"

// Whether bf16 values of e4m3 codes are multiplied by `scale` by adding to their exponents, and
// what is added: powers of two with which no product leaves the normal numbers.
bool adds_to_exponents(float scale, int& exponent) {
  uint32_t bits;
  __builtin_memcpy(&bits, &scale, 4);
  exponent = static_cast<int>(bits >> 23) - 127;
  return (bits & 0x807FFFFF) == 0 && exponent > -100 && exponent < 100;
}

// Dequantises one group of a cache row. A scaled table (scaled_lookup) would not pay for 128 codes.
void dequantise_row(const uint8_t* code, float scale, uint16_t* out) {
  CodeLookup lookup = CodeLookup::of(kCodes.low, kCodes.high);
  int exponent;
  if (adds_to_exponents(scale, exponent)) {
    const W more = _mm512_set1_epi16(static_cast<int16_t>(exponent * 128));
    // Zero and NaN keep their exponents.
    auto scaled = [&](W x) {
      const W magnitude = _mm512_and_si512(x, _mm512_set1_epi16(0x7FFF));
      const __mmask32 number = _mm512_cmplt_epu16_mask(
          _mm512_sub_epi16(magnitude, _mm512_set1_epi16(1)), _mm512_set1_epi16(0x7F7F));
      return _mm512_mask_add_epi16(x, number, x, more);
    };
    for (int i = 0; i < 128; i += 64) {
      W first, second;
      lookup(code + i, first, second);
      store_words(out + i, scaled(first));
      store_words(out + i + 32, scaled(second));
    }
    return;
  }
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

// Rows of a block are a whole row of the matrix apart. Hardware prefetchers do not follow such a
// stride, so rows are prefetched by instruction, this many ahead.
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

// Unpacking leaves 4 columns of each quarter of 16 in a register. So it is the sums that are put in
// order, once.
template <int R>
void mix_code_pair_rows(const CodeMix& m, int row, const CodeLookup& lookup) {
  for (int column = 0; column < kCodeColumns; column += 64) {
    F acc[R][4];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) acc[r][j] = zero();
    const uint32_t* a = words_at(m.a, row * m.lda);
    const uint8_t* even = m.code + column;
    for (int k = 0; k < m.words; ++k, even += 2 * m.ld) {
      _mm_prefetch(even + kRowsAhead * m.ld, _MM_HINT_T0);
      _mm_prefetch(even + (kRowsAhead + 1) * m.ld, _MM_HINT_T0);
      _mm_prefetch(even + 64, _MM_HINT_T0);  // the next columns
      _mm_prefetch(even + m.ld + 64, _MM_HINT_T0);
      const W first = load_words(even), second = load_words(even + m.ld);
      W low, high, b[4];
      lookup.bytes(_mm512_unpacklo_epi8(first, second), low, high);
      b[0] = _mm512_unpacklo_epi8(low, high), b[1] = _mm512_unpackhi_epi8(low, high);
      lookup.bytes(_mm512_unpackhi_epi8(first, second), low, high);
      b[2] = _mm512_unpacklo_epi8(low, high), b[3] = _mm512_unpackhi_epi8(low, high);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const W x = splat_word(a + r * m.lda + k);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) acc[r][j] = dot_pairs(acc[r][j], x, b[j]);
      }
    }
    for (int r = 0; r < R; ++r) {
      F sums[4];
      transpose_quarters(acc[r], sums);
      for (int j = 0; j < 4; ++j) store(m.c + (row + r) * m.ldc + column + 16 * j, sums[j]);
    }
  }
}

template <int R>
void mix_code_pairs_of(const CodeMix& m, int row, const CodeLookup& lookup) {
  if constexpr (R > 1) {
    if (m.rows - row < R) return mix_code_pairs_of<R - 1>(m, row, lookup);
  }
  mix_code_pair_rows<R>(m, row, lookup);
}

// A NaN is in the table like every value.
bool mix_code_pairs(const CodeMix& m) {
  const CodeLookup lookup = scaled_lookup(m.scale);
  for (int row = 0; row < m.rows; row += kCodeRows) mix_code_pairs_of<kCodeRows>(m, row, lookup);
  return true;
}

// As dot_block; each row's products are summed in the same order.
template <int H>
void dot_code_rows(const CodeDots& d, int head, const CodeLookup* lookups) {
  constexpr int R = kDotSums / H;
  const uint32_t* q = words_at(d.q, head * d.ldq);
  for (int row = 0; row < d.count; row += R) {
    F acc[kDotSums];
#pragma GCC unroll 16
    for (int i = 0; i < kDotSums; ++i) acc[i] = zero();
    for (int k = 0; k < d.words; k += 64) {
      const CodeLookup lookup = lookups[k / 64];
      const uint8_t* code = d.code + row * d.ld + 2 * k;
#pragma GCC unroll 16
      for (int i = 0; i < R; ++i, code += d.ld)
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
          _mm_prefetch(code + R * d.ld + 64 * half, _MM_HINT_T0);
          W first, second;
          lookup(code + 64 * half, first, second);
#pragma GCC unroll 4
          for (int h = 0; h < H; ++h) {
            const uint32_t* y = q + h * d.ldq + k + 32 * half;
            acc[h * R + i] = dot_pairs(acc[h * R + i], load_words(y), first);
            acc[h * R + i] = dot_pairs(acc[h * R + i], load_words(y + 16), second);
          }
        }
    }
    alignas(64) float sums[kDotSums];  // [head][row]
    lane_sums(acc, sums);
    for (int h = 0; h < H; ++h)
      __builtin_memcpy(d.out + (head + h) * d.ldo + row, sums + R * h, sizeof(float) * R);
  }
}

void dot_codes(const CodeDots& d) {
  CodeLookup lookups[kMaxCodeBlocks];
  for (int k = 0; k < d.words; k += 64) lookups[k / 64] = scaled_lookup(d.scale[k / 64]);
  int head = 0;
  for (; head + 4 <= d.heads; head += 4) dot_code_rows<4>(d, head, lookups);
  for (; head + 2 <= d.heads; head += 2) dot_code_rows<2>(d, head, lookups);
  if (head < d.heads) dot_code_rows<1>(d, head, lookups);
}

#include "kernels/cpu/attention_kernels512_inl.h"

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

}  // namespace

const AttentionKernels kAttentionAvx512 = {
    .name = "avx512",
    .f32 = {product<FloatElement>, dot_floats, mix_floats, softmax<FloatElement>,
            index_tile<FloatElement>, mix_codes, nullptr},
    .bf16 = {product<PairElement>, dots_of<PairElement, WordRow>, mix_pairs, softmax<PairElement>,
             index_tile<PairElement>, mix_code_pairs, dot_codes},
    .pairs = true,
    .mixes_pairs = true,
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
