// Kernels of attention_kernels.h for AVX-512 that deal in 16 words at a time. Included like
// attention_kernels_inl.h, after it.

void round_exactly(const float* x, int64_t n, uint16_t* out) {
  for (int64_t i = 0; i < n; i += 16)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), bf16_bits_exactly(load(x + i)));
}

#include "kernels/cpu/transpose_avx512_inl.h"

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
