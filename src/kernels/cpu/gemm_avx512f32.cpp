// AVX-512 without BF16 products: activations and weights meet as float32, as in AVX2, in registers
// twice as wide.
#if defined(__x86_64__)
// GCC 12's own intrinsics read a variable before its first assignment, on purpose (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/gemm.h"

namespace fathom {
namespace {

inline __m256i to_bf16_bits(__m512 v) {
  __m512i u = _mm512_castps_si512(v);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
  // A NaN is made quiet instead: the carry of the rounding could run into its sign.
  __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  r = _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16));
}

#include "kernels/cpu/vector_avx512_inl.h"

#include "kernels/cpu/gemm_inl.h"
#include "kernels/cpu/product_f32_inl.h"
#include "kernels/cpu/product_words_inl.h"
#include "kernels/cpu/rows_inl.h"

}  // namespace

const GemmKernels kGemmAvx512F32 = {
    .name = "avx512f32",
    .f32 = {.pack = pack_f32,
            .tile = tile_f32,
            .stream = stream_f32,
            .stream_rows = kStreamRowsF32,
            .stream_unit = sizeof(V::F),
            .lift = lift},
    .bf16 = {},
    .prepare = prepare,
    .norm = norm,
    .silu = silu,
    .combine = combine,
};

}  // namespace fathom
#endif
