#include "kernels/cpu/peak_rate.h"

#include <cstring>

#include "kernels/cpu_ops.h"

namespace fathom {
namespace {

// What every compiler target has: 16-byte vectors through GCC's portable extension.
using Words [[gnu::vector_size(16)]] = uint64_t;
using Floats [[gnu::vector_size(16)]] = float;

uint64_t read(const void* data, int64_t bytes) {
  const auto* p = static_cast<const Words*>(data);
  const int64_t quarter = bytes / 64;  // in 16-byte words
  Words sum[4] = {};
  for (int64_t at = 0; at < quarter; ++at)
#pragma GCC unroll 4
    for (int s = 0; s < 4; ++s) sum[s] ^= p[s * quarter + at];
  sum[0] ^= sum[1] ^ sum[2] ^ sum[3];
  return sum[0][0] ^ sum[0][1];
}

constexpr int kSums = 12;

// All zeros, but unknown to the compiler, which would otherwise compute equal sums only once.
void start(Floats (&sum)[kSums]) {
#pragma GCC unroll 32
  for (Floats& s : sum) {
    s = Floats{};
    asm volatile("" : "+m"(s));
  }
}

float f32(int64_t rounds) {
  Floats sum[kSums];
  start(sum);
  volatile float seed = 0x1p-20F;  // unknown to the compiler, so the products stay
  Floats a = {seed, seed, seed, seed}, b = a;
  for (int64_t r = 0; r < rounds; ++r) {
    asm volatile("" : "+m"(a), "+m"(b));
#pragma GCC unroll 32
    for (int i = 0; i < kSums; ++i) sum[i] += a * b;
  }
  for (int i = 1; i < kSums; ++i) sum[0] += sum[i];
  return sum[0][0] + sum[0][1] + sum[0][2] + sum[0][3];
}

constexpr PeakProduct kMultiplyAdd = {"multiply and add, 128 bits", f32, kSums * 4 * 2};

}  // namespace

const PeakKernels kPeakPlain = {
    .name = "plain", .read = read, .bf16 = kMultiplyAdd, .f32 = kMultiplyAdd};

const PeakKernels& peak_kernels() {
  // The table of kernels says which rows this processor can run.
  for (const CpuKernels& row : cpu_kernels()) {
    if (!row.usable()) continue;
#if defined(__x86_64__)
    for (const PeakKernels* k : {&kPeakAmx, &kPeakAvx512, &kPeakAvx512F32, &kPeakAvx2})
      if (row.name == k->name) return *k;
#endif
  }
  return kPeakPlain;
}

}  // namespace fathom
