// IEEE half precision, which some checkpoints store weights in. Every value is exact in float32.
#pragma once

#include <cstdint>

#include "numerics/bf16.h"

namespace fathom {

FATHOM_HD inline float half_to_float(uint16_t h) {
  uint32_t sign = (h & 0x8000u) << 16, exponent = (h >> 10) & 31u, mantissa = h & 1023u;
  if (exponent == 31u) return float_of(sign | 0x7F800000u | (mantissa << 13));
  if (exponent == 0u) {  // subnormal: steps of 2^-24
    float value = static_cast<float>(mantissa) * 0x1p-24f;
    return float_of(bits_of(value) | sign);
  }
  return float_of(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

}  // namespace fathom
