#include <immintrin.h>

#include "kernels/cpu/peak_rate.h"

namespace fathom {
namespace {

#include "kernels/cpu/peak_rate_avx512_inl.h"

float bf16(int64_t rounds) {
  __m512 sum[kSums];
  start(sum);
  // 2^-60 as bf16 in every place: the products vanish beside the sums, and nothing overflows.
  __m512bh a = reinterpret_cast<__m512bh>(_mm512_set1_epi16(0x2180));
  __m512bh b = a;
  for (int64_t r = 0; r < rounds; ++r) {
    // The compiler may not know that the operands stay the same.
    asm volatile("" : "+v"(a), "+v"(b));
#pragma GCC unroll 32
    for (int i = 0; i < kSums; ++i) sum[i] = _mm512_dpbf16_ps(sum[i], a, b);
  }
  return total(sum, kSums);
}

}  // namespace

const PeakKernels kPeakAvx512 = {.name = "avx512",
                                 .read = read,
                                 .bf16 = {"vdpbf16ps, 512 bits", bf16, kSums * 32 * 2},
                                 .f32 = {"vfmadd, 512 bits", f32, kSums * 16 * 2}};

}  // namespace fathom
