// Attention kernels for AVX2 and FMA: every operand widened to float32. Correct first; the shape of
// the work (panels, tiles) is that of the AVX-512 kernels. As there, helpers are in an anonymous
// namespace and only plain declarations of the project are included.
#include "kernels/cpu/attention_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace fathom {
namespace {

constexpr int kProductRows = 1;  // 8 of 16 registers are accumulators already
constexpr int kIndexHeads = 1;

struct F {
  __m256 low, high;
};
struct W {
  __m256i low, high;
};

inline F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F x) {
  _mm256_storeu_ps(p, x.low);
  _mm256_storeu_ps(p + 8, x.high);
}
inline F add(F a, F b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline F sub(F a, F b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
inline F mul(F a, F b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
inline F fmadd(F a, F b, F c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline F vmax(F a, F b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
inline F round_even(F x) { return {_mm256_round_ps(x.low, 0), _mm256_round_ps(x.high, 0)}; }
// n in [-126, 0]: the power's bits are its biased exponent.
inline __m256 power_of_two(__m256 n) {
  __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
inline F times_power_of_two(F x, F n) {
  return {_mm256_mul_ps(x.low, power_of_two(n.low)), _mm256_mul_ps(x.high, power_of_two(n.high))};
}
inline float first_lane(F x) { return _mm256_cvtss_f32(x.low); }
inline float greatest_lane(F x) {
  alignas(32) float v[8];
  _mm256_store_ps(v, _mm256_max_ps(x.low, x.high));
  float top = v[0];
  for (float y : v) top = y > top ? y : top;
  return top;
}
inline float sum_of_lanes(F x) {
  alignas(32) float v[8];
  _mm256_store_ps(v, _mm256_add_ps(x.low, x.high));
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}
inline __m256 lanes_of(uint64_t mask) {
  __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  __m256i set = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(mask & 255)), bit);
  return _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, bit));
}
inline F keep_lanes(uint64_t mask, F x, F other) {
  return {_mm256_blendv_ps(other.low, x.low, lanes_of(mask)),
          _mm256_blendv_ps(other.high, x.high, lanes_of(mask >> 8))};
}

inline W load_words(const void* p) {
  const __m256i* w = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(w), _mm256_loadu_si256(w + 1)};
}
inline void store_words(void* p, W x) {
  __m256i* w = static_cast<__m256i*>(p);
  _mm256_storeu_si256(w, x.low);
  _mm256_storeu_si256(w + 1, x.high);
}
inline W splat_word(const uint32_t* p) {
  int x;
  __builtin_memcpy(&x, p, 4);
  return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}
inline F as_floats(W x) { return {_mm256_castsi256_ps(x.low), _mm256_castsi256_ps(x.high)}; }

inline __m256 upper(__m256i x) {
  return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(0xFFFF0000))));
}
inline __m256 lower(__m256i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
inline __m256 dot_pairs(__m256 acc, __m256i a, __m256i b) {
  return _mm256_fmadd_ps(lower(a), lower(b), _mm256_fmadd_ps(upper(a), upper(b), acc));
}
inline F dot_pairs(F acc, W a, W b) {
  return {dot_pairs(acc.low, a.low, b.low), dot_pairs(acc.high, a.high, b.high)};
}

// bf16 bits in the upper half of each lane, nearest even; NaN stays NaN.
inline __m256i rounded_bits(__m256 x) {
  __m256i u = _mm256_castps_si256(x);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  __m256i r = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7FFF)), odd);
  __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(r, quiet, nan);
}
inline __m256i round_words(__m256 even, __m256 odd) {
  __m256i high =
      _mm256_and_si256(rounded_bits(odd), _mm256_set1_epi32(static_cast<int>(0xFFFF0000)));
  return _mm256_or_si256(_mm256_srli_epi32(rounded_bits(even), 16), high);
}
// 32 bf16 of two rows, taken alternately.
inline void interleave(const uint16_t* even, const uint16_t* odd, W& first, W& second) {
  W* out[2] = {&first, &second};
  for (int i = 0; i < 2; ++i, even += 16, odd += 16) {
    W a = {_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(even))),
           _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(even + 8)))};
    W b = {_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(odd))),
           _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(odd + 8)))};
    out[i]->low = _mm256_or_si256(a.low, _mm256_slli_epi32(b.low, 16));
    out[i]->high = _mm256_or_si256(a.high, _mm256_slli_epi32(b.high, 16));
  }
}
inline W round_words(F even, F odd) {
  return {round_words(even.low, odd.low), round_words(even.high, odd.high)};
}
inline void store_bf16(uint16_t* p, F x) {
  alignas(32) uint32_t bits[16];
  store_words(bits, {rounded_bits(x.low), rounded_bits(x.high)});
  for (int i = 0; i < 16; ++i) p[i] = static_cast<uint16_t>(bits[i] >> 16);
}
inline __m256 load_bf16_8(const uint16_t* p) {
  __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
inline F load_bf16(const uint16_t* p) { return {load_bf16_8(p), load_bf16_8(p + 8)}; }

inline __m256 load_fp8_8(const uint8_t* code) {
  __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(code)));
  __m256i magnitude = _mm256_and_si256(wide, _mm256_set1_epi32(0x7F));
  __m256i sign = _mm256_slli_epi32(_mm256_and_si256(wide, _mm256_set1_epi32(0x80)), 24);
  // As float32 bits 2^120 too small; the product makes normal and subnormal codes right alike.
  __m256 value = _mm256_mul_ps(_mm256_castsi256_ps(_mm256_slli_epi32(magnitude, 20)),
                               _mm256_set1_ps(0x1p120f));
  __m256i bits = _mm256_or_si256(_mm256_castps_si256(value), sign);
  __m256i nan = _mm256_cmpeq_epi32(magnitude, _mm256_set1_epi32(0x7F));
  return _mm256_castsi256_ps(_mm256_blendv_epi8(bits, _mm256_set1_epi32(0x7FC00000), nan));
}
inline F load_fp8(const uint8_t* code) { return {load_fp8_8(code), load_fp8_8(code + 8)}; }

void lane_sums(const F (&acc)[16], float* sums) {
  for (int i = 0; i < 16; ++i) sums[i] = sum_of_lanes(acc[i]);
}

#include "kernels/cpu/attention_kernels_inl.h"

void dequantise_bf16(const uint8_t* code, int64_t ld, int rows, float scale, uint16_t* out,
                     int64_t ldo) {
  for (int r = 0; r < rows; ++r)
    for (int i = 0; i < 128; i += 16)
      store_bf16(out + r * ldo + i, mul(load_fp8(code + r * ld + i), splat(scale)));
}

void round_exactly(const float* x, int64_t n, uint16_t* out) {
  for (int64_t i = 0; i < n; i += 16) store_bf16(out + i, load(x + i));
}

void dequantise_pairs(const uint8_t* code, int64_t ld, int pairs, float scale, uint32_t* out,
                      int64_t ldo) {
  for (int p = 0; p < pairs; ++p)
    for (int i = 0; i < 128; i += 16) {
      F even = mul(load_fp8(code + 2 * p * ld + i), splat(scale));
      F odd = mul(load_fp8(code + (2 * p + 1) * ld + i), splat(scale));
      store_words(out + p * ldo + i, round_words(even, odd));
    }
}

void pack_lanes(const void* const* rows, int words, uint32_t* out) {
  for (int r = 0; r < kPanelWidth; ++r)
    for (int k = 0; k < words; ++k) {
      uint32_t x = 0;
      if (rows[r]) __builtin_memcpy(&x, words_at(rows[r], k), 4);
      out[k * kPanelWidth + r] = x;
    }
}

void pack_pairs(const void* const* rows, int pairs, int columns, uint32_t* out, int64_t ldo) {
  for (int p = 0; p < pairs; ++p) {
    const uint16_t* even = static_cast<const uint16_t*>(rows[2 * p]);
    const uint16_t* odd = static_cast<const uint16_t*>(rows[2 * p + 1]);
    for (int c = 0; c < columns; ++c)
      out[p * ldo + c] = even[c] | (static_cast<uint32_t>(odd[c]) << 16);
  }
}

// ---------------------------------------------------------------------------- top-k

void order_keys(const float* score, int64_t n, uint32_t* keys, uint32_t* least,
                uint32_t* greatest) {
  uint32_t low = 0xFFFFFFFFU, high = 0;
  for (int64_t i = 0; i < n; ++i) {
    float x = score[i] + 0.0f;  // -0 = +0
    uint32_t u;
    __builtin_memcpy(&u, &x, 4);
    uint32_t key = u ^ ((0U - (u >> 31)) | 0x80000000U);
    keys[i] = key;
    low = key < low ? key : low;
    high = key > high ? key : high;
  }
  *least = low;
  *greatest = high;
}

int64_t count_at_least(const uint32_t* keys, int64_t n, uint32_t bound) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) count += keys[i] >= bound;
  return count;
}

int64_t keep(const uint32_t* keys, int64_t n, uint32_t bound, bool at_least, uint32_t* out) {
  int64_t kept = 0;
  for (int64_t i = 0; i < n; ++i) {
    uint32_t key = keys[i];
    if ((key >= bound) == at_least) out[kept++] = key;
  }
  return kept;
}

void emit(const uint32_t* keys, int64_t n, uint32_t bound, int64_t ties, int32_t* out) {
  for (int64_t i = 0; i < n; ++i)
    if (keys[i] > bound || (keys[i] == bound && ties-- > 0)) *out++ = static_cast<int32_t>(i);
}

}  // namespace

const AttentionKernels kAttentionAvx2 = {
    .name = "avx2",
    .f32 = {product<FloatElement>, dots<FloatElement>, softmax<FloatElement>,
            index_tile<FloatElement>},
    .bf16 = {product<PairElement>, dots<PairElement>, softmax<PairElement>,
             index_tile<PairElement>},
    .pack_lanes = pack_lanes,
    .pack_pairs = pack_pairs,
    .mix_rows = mix_rows,
    .round_pairs = round_pairs,
    .dequantise_bf16 = dequantise_bf16,
    .dequantise_pairs = dequantise_pairs,
    .dequantise_f32 = dequantise_f32,
    .to_bf16 = to_bf16_scaled,
    .round = round_exactly,
    .to_f32 = to_f32,
    .order_keys = order_keys,
    .count_at_least = count_at_least,
    .keep = keep,
    .emit = emit,
};

}  // namespace fathom
#endif
