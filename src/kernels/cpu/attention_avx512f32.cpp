// Attention kernels for AVX-512 without BF16 products: every operand widened to float32, as in
// AVX2. Helpers are in an anonymous namespace and only plain declarations of the project are
// included, for the reason given in attention_avx512.cpp.
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

inline F round_bf16(F x) {
  return as_floats(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16_bits_exactly(x)), 16));
}
inline void store_bf16(uint16_t* p, F x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bf16_bits_exactly(x));
}
inline void store_upper_halves(uint16_t* p, F x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(as_words(x), 16)));
}

#include "kernels/cpu/attention_kernels_inl.h"

#include "kernels/cpu/attention_widened_inl.h"

#include "kernels/cpu/attention_kernels512_inl.h"

}  // namespace

const AttentionKernels kAttentionAvx512F32 = {
    .name = "avx512f32",
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
