// Attention kernels for AVX2 and FMA: every operand widened to float32; rows of the cache are
// widened in registers on their way. As in the AVX-512 files, helpers are in an anonymous namespace
// and only plain declarations of the project are included.
#include "kernels/cpu/attention_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace fathom {
namespace {

// F is two registers, so 6 x 1 are 12 accumulators of 16 registers.
constexpr int kProductRows = 6, kSlice = 1;
constexpr int kIndexHeads = 4, kDotSums = 4, kCodeRows = 2, kLiftedRows = 1;

#include "kernels/cpu/fp8_avx2_inl.h"
#include "kernels/cpu/transpose_avx2_inl.h"

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
  __m256 v = _mm256_max_ps(x.low, x.high);
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}
inline float sum_of_lanes(F x) {
  __m256 v = _mm256_add_ps(x.low, x.high);
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
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
inline W splat_word(const uint32_t* p) {
  int x;
  __builtin_memcpy(&x, p, 4);
  return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}
// The two bf16 of each word as float32.
inline W lower_bf16(W x) { return {_mm256_slli_epi32(x.low, 16), _mm256_slli_epi32(x.high, 16)}; }
inline W upper_bf16(W x) {
  const __m256i upper = _mm256_set1_epi32(-0x10000);
  return {_mm256_and_si256(x.low, upper), _mm256_and_si256(x.high, upper)};
}
inline F as_floats(W x) { return {_mm256_castsi256_ps(x.low), _mm256_castsi256_ps(x.high)}; }

inline W as_words(F x) { return {_mm256_castps_si256(x.low), _mm256_castps_si256(x.high)}; }

// bf16 bits in the upper half of each lane, nearest even; NaN stays NaN.
inline __m256i rounded_bits(__m256 x) {
  __m256i u = _mm256_castps_si256(x);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  __m256i r = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7FFF)), odd);
  __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(r, quiet, nan);
}
inline F round_bf16(F x) {
  const __m256i upper = _mm256_set1_epi32(-0x10000);
  return {_mm256_castsi256_ps(_mm256_and_si256(rounded_bits(x.low), upper)),
          _mm256_castsi256_ps(_mm256_and_si256(rounded_bits(x.high), upper))};
}
// Packing works within halves of a register: quarters come out as 0, 2, 1, 3.
inline void store_words_as_halves(uint16_t* p, __m256i low, __m256i high) {
  __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xD8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), packed);
}
inline void store_bf16(uint16_t* p, F x) {
  store_words_as_halves(p, _mm256_srli_epi32(rounded_bits(x.low), 16),
                        _mm256_srli_epi32(rounded_bits(x.high), 16));
}
inline void store_upper_halves(uint16_t* p, F x) {
  store_words_as_halves(p, _mm256_srli_epi32(_mm256_castps_si256(x.low), 16),
                        _mm256_srli_epi32(_mm256_castps_si256(x.high), 16));
}
inline __m256 load_bf16_8(const uint16_t* p) {
  __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
inline F load_bf16(const uint16_t* p) { return {load_bf16_8(p), load_bf16_8(p + 8)}; }

inline F load_fp8(const uint8_t* code) { return {fp8_values(code), fp8_values(code + 8)}; }
[[gnu::always_inline]] inline void load_halves(const uint8_t* code, F (&w)[2], __m256i& seen) {
  __m256 quarter[4];
  fp8_halves(code, quarter, seen);
  w[0] = {quarter[0], quarter[1]};
  w[1] = {quarter[2], quarter[3]};
}

// 64 codes: lane j of a half of w[i] is code 4 j + i of 32.
[[gnu::always_inline]] inline void load_code_words(const uint8_t* code, F (&w)[4]) {
  const W x = load_words(code);
  __m256 even[2], odd[2];
  fp8_of_words<false>(x.low, even), fp8_of_words<true>(x.low, odd);
  w[0].low = even[0], w[1].low = odd[0], w[2].low = even[1], w[3].low = odd[1];
  fp8_of_words<false>(x.high, even), fp8_of_words<true>(x.high, odd);
  w[0].high = even[0], w[1].high = odd[0], w[2].high = even[1], w[3].high = odd[1];
}
inline void store_word_lanes(float* c, __m256 x0, __m256 x1, __m256 x2, __m256 x3) {
  const __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(x0, x1));
  const __m256d b = _mm256_castps_pd(_mm256_unpacklo_ps(x2, x3));
  const __m256d d = _mm256_castps_pd(_mm256_unpackhi_ps(x0, x1));
  const __m256d e = _mm256_castps_pd(_mm256_unpackhi_ps(x2, x3));
  const __m256d lanes[4] = {_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b),
                            _mm256_unpacklo_pd(d, e), _mm256_unpackhi_pd(d, e)};
  for (int j = 0; j < 4; ++j) {
    const __m256 lane = _mm256_castpd_ps(lanes[j]);
    _mm_storeu_ps(c + 4 * j, _mm256_castps256_ps128(lane));
    _mm_storeu_ps(c + 16 + 4 * j, _mm256_extractf128_ps(lane, 1));
  }
}
inline void store_word_lanes(float* c, const F (&x)[4]) {
  store_word_lanes(c, x[0].low, x[1].low, x[2].low, x[3].low);
  store_word_lanes(c + 32, x[0].high, x[1].high, x[2].high, x[3].high);
}

// The order of additions: the halves of a vector, then neighbours, pairs of neighbours, and the two
// halves.
void lane_sums(const F (&acc)[4], float* sums) {
  __m256 v[4];
  for (int i = 0; i < 4; ++i) v[i] = _mm256_add_ps(acc[i].low, acc[i].high);
  __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
  _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
}

#include "kernels/cpu/attention_kernels_inl.h"

#include "kernels/cpu/attention_widened_inl.h"

void round_exactly(const float* x, int64_t n, uint16_t* out) {
  for (int64_t i = 0; i < n; i += 16) store_bf16(out + i, load(x + i));
}

void pack_lanes(const void* const* rows, int words, uint32_t* out) {
  for (int r = 0; r < kPanelWidth; r += 8)
    for (int k = 0; k < words; k += 8) {
      __m256i x[8];
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i)
        x[i] = rows[r + i]
                   ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words_at(rows[r + i], k)))
                   : _mm256_setzero_si256();
      transpose(x);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + (k + i) * kPanelWidth + r), x[i]);
    }
}

// ---------------------------------------------------------------------------- top-k

// The first `n` < 8 lanes.
inline __m256i lanes_below(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline __m256i load_keys(const uint32_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
inline unsigned mask_of(__m256i x) {
  return static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(x)));
}
// 8 keys from `i` on, of which `in` holds those that exist.
inline __m256i keys_at(const uint32_t* keys, int64_t i, int64_t n, unsigned& in) {
  if (n - i >= 8) {
    in = 255;
    return load_keys(keys + i);
  }
  in = (1U << (n - i)) - 1;
  return _mm256_maskload_epi32(reinterpret_cast<const int*>(keys + i), lanes_below(n - i));
}
// x >= bound without sign: AVX2 compares signed integers only, so this is max(x, bound) == x.
inline unsigned at_least(__m256i x, __m256i bound) {
  return mask_of(_mm256_cmpeq_epi32(_mm256_max_epu32(x, bound), x));
}

void order_keys(const float* score, int64_t n, uint32_t* keys, uint32_t* least,
                uint32_t* greatest) {
  const __m256i top = _mm256_set1_epi32(static_cast<int>(0x80000000));
  __m256i low = _mm256_set1_epi32(-1), high = _mm256_setzero_si256();
  auto key_of = [&](__m256 x) {
    __m256i bits = _mm256_castps_si256(_mm256_add_ps(x, _mm256_setzero_ps()));  // -0 = +0
    return _mm256_xor_si256(bits, _mm256_or_si256(_mm256_srai_epi32(bits, 31), top));
  };
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m256i key = key_of(_mm256_loadu_ps(score + i));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(keys + i), key);
    low = _mm256_min_epu32(low, key);
    high = _mm256_max_epu32(high, key);
  }
  if (i < n) {
    const __m256i in = lanes_below(n - i);
    __m256i key = key_of(_mm256_maskload_ps(score + i, in));
    _mm256_maskstore_epi32(reinterpret_cast<int*>(keys + i), in, key);
    low = _mm256_min_epu32(low, _mm256_or_si256(key, _mm256_xor_si256(in, _mm256_set1_epi32(-1))));
    high = _mm256_max_epu32(high, _mm256_and_si256(key, in));
  }
  alignas(32) uint32_t lows[8], highs[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lows), low);
  _mm256_store_si256(reinterpret_cast<__m256i*>(highs), high);
  *least = lows[0], *greatest = highs[0];
  for (int j = 1; j < 8; ++j) {
    *least = lows[j] < *least ? lows[j] : *least;
    *greatest = highs[j] > *greatest ? highs[j] : *greatest;
  }
}

int64_t count_at_least(const uint32_t* keys, int64_t n, uint32_t bound) {
  const __m256i b = _mm256_set1_epi32(static_cast<int>(bound));
  int64_t count = 0;
  for (int64_t i = 0; i < n; i += 8) {
    unsigned in;
    __m256i x = keys_at(keys, i, n, in);
    count += __builtin_popcount(at_least(x, b) & in);
  }
  return count;
}

// The lane numbers of the set bits of a mask, in ascending order: a permutation by them moves the
// chosen lanes to the front.
struct Chosen {
  alignas(32) int32_t lane[256][8];
  constexpr Chosen() : lane() {
    for (int mask = 0; mask < 256; ++mask)
      for (int i = 0, n = 0; i < 8; ++i)
        if (mask >> i & 1) lane[mask][n++] = i;
  }
};
constexpr Chosen kChosen;

inline int store_chosen(uint32_t* out, unsigned chosen, __m256i x) {
  const int count = __builtin_popcount(chosen);
  __m256i order = _mm256_load_si256(reinterpret_cast<const __m256i*>(kChosen.lane[chosen]));
  _mm256_maskstore_epi32(reinterpret_cast<int*>(out), lanes_below(count),
                         _mm256_permutevar8x32_epi32(x, order));
  return count;
}

int64_t keep(const uint32_t* keys, int64_t n, uint32_t bound, bool at_least_bound, uint32_t* out) {
  const __m256i b = _mm256_set1_epi32(static_cast<int>(bound));
  const unsigned flip = at_least_bound ? 0 : 255;
  int64_t kept = 0;
  for (int64_t i = 0; i < n; i += 8) {
    unsigned in;
    __m256i x = keys_at(keys, i, n, in);
    kept += store_chosen(out + kept, (at_least(x, b) ^ flip) & in, x);
  }
  return kept;
}

void emit(const uint32_t* keys, int64_t n, uint32_t bound, int64_t ties, int32_t* out) {
  const __m256i b = _mm256_set1_epi32(static_cast<int>(bound));
  __m256i position = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  uint32_t* to = reinterpret_cast<uint32_t*>(out);
  for (int64_t i = 0; i < n; i += 8) {
    unsigned in;
    __m256i x = keys_at(keys, i, n, in);
    unsigned equal = mask_of(_mm256_cmpeq_epi32(x, b)) & in;
    unsigned chosen = at_least(x, b) & in & ~equal;
    for (; equal != 0 && ties > 0; --ties, equal &= equal - 1) chosen |= equal & (0U - equal);
    if (chosen) to += store_chosen(to, chosen, position);
    position = _mm256_add_epi32(position, _mm256_set1_epi32(8));
  }
}

}  // namespace

const AttentionKernels kAttentionAvx2 = {
    .name = "avx2",
    .f32 = {product<FloatElement>, dot_floats, mix_floats, softmax<FloatElement>,
            index_tile<FloatElement>, mix_codes, nullptr},
    .bf16 = {product<FloatElement>, dot_floats, mix_floats, softmax<RoundedElement>,
             index_tile<FloatElement>, mix_codes, nullptr},
    .pairs = false,
    .mixes_pairs = false,
    .pack_lanes = pack_lanes,
    .pack_pairs = nullptr,
    .round_pairs = nullptr,
    .dequantise_pairs = nullptr,
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
