// bfloat16: the upper half of a float32. Rounding is to nearest even; NaN stays NaN.
#pragma once

#include <bit>
#include <cstdint>

#include "numerics/host_device.h"

namespace fathom {

struct Bf16 {
  uint16_t bits;
};
static_assert(sizeof(Bf16) == 2);

FATHOM_HD inline uint32_t bits_of(float x) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(x);
#else
  return std::bit_cast<uint32_t>(x);
#endif
}

FATHOM_HD inline float float_of(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  return std::bit_cast<float>(bits);
#endif
}

FATHOM_HD inline float to_float(Bf16 x) { return float_of(static_cast<uint32_t>(x.bits) << 16); }

FATHOM_HD inline Bf16 to_bf16(float x) {
  uint32_t u = bits_of(x);
  if ((u & 0x7FFFFFFFu) > 0x7F800000u) return Bf16{static_cast<uint16_t>((u >> 16) | 0x40u)};
  return Bf16{static_cast<uint16_t>((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16)};
}

// float32 -> bf16 -> float32.
FATHOM_HD inline float round_bf16(float x) { return to_float(to_bf16(x)); }

}  // namespace fathom
