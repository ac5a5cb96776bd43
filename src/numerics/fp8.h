// FP8 e4m3 ("fn": no infinities, 0x7F and 0xFF are NaN, greatest value 448) and the quantisation of
// activations in groups of 128 (spec: DeepSeek-V3 report, section 3.3; ue8m0 scales since V3.1).
#pragma once

#include <cmath>
#include <cstdint>

#include "numerics/bf16.h"
#include "numerics/host_device.h"

namespace fathom {

inline constexpr int kFp8Block = 128;        // width of an activation group, side of a weight block
inline constexpr float kFp8Max = 448.0f;     // greatest finite e4m3
inline constexpr float kQuantFloor = 1e-4f;  // amax is never taken below this

FATHOM_HD inline float fp8_to_float(uint8_t code) {
  uint32_t sign = static_cast<uint32_t>(code & 0x80u) << 24;
  uint32_t exponent = (code >> 3) & 15u, mantissa = code & 7u;
  if (exponent == 15u && mantissa == 7u) return float_of(sign | 0x7FC00000u);
  if (exponent == 0u) {  // subnormal: mantissa * 2^-9, exact in float32
    float value = static_cast<float>(mantissa) * 0.001953125f;
    return float_of(bits_of(value) | sign);
  }
  return float_of(sign | ((exponent + 120u) << 23) | (mantissa << 20));
}

// Nearest even, saturating at +-448; NaN becomes the NaN code.
FATHOM_HD inline uint8_t float_to_fp8(float x) {
  uint32_t u = bits_of(x);
  uint8_t sign = static_cast<uint8_t>((u >> 24) & 0x80u);
  uint32_t a = u & 0x7FFFFFFFu;
  if (a > 0x7F800000u) return sign | 0x7Fu;
  if (a >= 0x43E00000u) return sign | 0x7Eu;  // >= 448
  if (a < 0x3C800000u) {                      // below 2^-6: subnormal, steps of 2^-9
    // Adding 2^14 leaves the value in units of 2^-9 in the low mantissa bits, rounded to even.
    uint32_t steps = bits_of(float_of(a) + 16384.0f) - 0x46800000u;
    return sign | static_cast<uint8_t>(steps);
  }
  a += 0x7FFFFu + ((a >> 20) & 1u);
  uint32_t code = (a >> 20) - (120u << 3);
  return sign | static_cast<uint8_t>(code > 0x7Eu ? 0x7Eu : code);
}

// Scale of one group whose greatest magnitude is amax. With ue8m0: the least power of two that is
// not below amax / 448, formed from the exponent bits, so that exact powers stay as they are.
FATHOM_HD inline float group_scale(float amax, bool ue8m0) {
  float a = amax > kQuantFloor ? amax : kQuantFloor;
  float s = a * (1.0f / kFp8Max);
  if (!ue8m0) return s;
  uint32_t u = bits_of(s);
  uint32_t exponent = (u >> 23) + ((u & 0x7FFFFFu) != 0u);
  return float_of(exponent << 23);
}

FATHOM_HD inline uint8_t quantise(float value, float scale) {
  float q = value / scale;
  q = q > kFp8Max ? kFp8Max : (q < -kFp8Max ? -kFp8Max : q);
  return float_to_fp8(q);
}

}  // namespace fathom
