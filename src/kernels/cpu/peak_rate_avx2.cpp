#include <immintrin.h>

#include "kernels/cpu/peak_rate.h"

namespace fathom {
namespace {

// Four streams, for the reason given in peak_rate_avx512_inl.h.
uint64_t read(const void* data, int64_t bytes) {
  const auto* p = static_cast<const char*>(data);
  const int64_t quarter = bytes / 4;
  __m256i sum[4] = {};
  for (int64_t at = 0; at < quarter; at += 32)
#pragma GCC unroll 4
    for (int s = 0; s < 4; ++s)
      sum[s] = _mm256_xor_si256(
          sum[s], _mm256_load_si256(reinterpret_cast<const __m256i*>(p + s * quarter + at)));
  sum[0] = _mm256_xor_si256(_mm256_xor_si256(sum[0], sum[1]), _mm256_xor_si256(sum[2], sum[3]));
  alignas(32) uint64_t words[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(words), sum[0]);
  return words[0] ^ words[1] ^ words[2] ^ words[3];
}

// Enough to hide latency: two instructions a cycle at a latency of up to 6 cycles. 12 of 16
// registers.
constexpr int kSums = 12;

// All zeros, but unknown to the compiler, which would otherwise compute equal sums only once.
void start(__m256 (&sum)[kSums]) {
#pragma GCC unroll 32
  for (__m256& s : sum) {
    s = _mm256_setzero_ps();
    asm volatile("" : "+x"(s));
  }
}

float f32(int64_t rounds) {
  __m256 sum[kSums];
  start(sum);
  __m256 a = _mm256_set1_ps(0x1p-20F), b = a;
  for (int64_t r = 0; r < rounds; ++r) {
    // The compiler may not know that the operands stay the same.
    asm volatile("" : "+x"(a), "+x"(b));
#pragma GCC unroll 32
    for (int i = 0; i < kSums; ++i) sum[i] = _mm256_fmadd_ps(a, b, sum[i]);
  }
  for (int i = 1; i < kSums; ++i) sum[0] = _mm256_add_ps(sum[0], sum[i]);
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, sum[0]);
  float total = 0;
  for (float lane : lanes) total += lane;
  return total;
}

constexpr PeakProduct kFma = {"vfmadd, 256 bits", f32, kSums * 8 * 2};

}  // namespace

// AVX2 has no bf16 product: bf16 inputs are widened and multiplied as float32.
const PeakKernels kPeakAvx2 = {.name = "avx2", .read = read, .bf16 = kFma, .f32 = kFma};

}  // namespace fathom
