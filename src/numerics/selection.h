// The order in which indexer scores are preferred: the higher score first, then the lower position.
// -0 and +0 are equal. That matters: in real rows the top-k boundary often lies among scores that
// the ReLU of every head has made zero.
#pragma once

#include <cstdint>

#include "numerics/bf16.h"
#include "numerics/host_device.h"

namespace fathom {

// Maps floats to unsigned integers of the same order, and both zeros to one key. NaN is not
// expected.
FATHOM_HD inline uint32_t order_key(float score) {
  uint32_t u = bits_of(score + 0.0f);  // -0 + 0 = +0
  return (u & 0x80000000u) ? ~u : (u | 0x80000000u);
}

// True when (score a, position i) is preferred to (score b, position j).
FATHOM_HD inline bool preferred(float a, int64_t i, float b, int64_t j) {
  return a > b || (a == b && i < j);
}

}  // namespace fathom
