// The rotation of indexer queries and keys: x <- x H / sqrt(n), H the Sylvester-ordered Hadamard
// matrix. It spreads outliers before the FP8 rounding. Queries and keys are both rotated, so their
// dot products do not change.
#pragma once

#include <cmath>

#include "numerics/host_device.h"

namespace fathom {

// In place, n a power of two.
FATHOM_HD inline void hadamard_rotate(float* x, int n) {
  for (int half = 1; half < n; half *= 2)
    for (int i = 0; i < n; i += 2 * half)
      for (int j = i; j < i + half; ++j) {
        float a = x[j], b = x[j + half];
        x[j] = a + b;
        x[j + half] = a - b;
      }
  float norm = 1.0f / sqrtf(static_cast<float>(n));
  for (int i = 0; i < n; ++i) x[i] *= norm;
}

}  // namespace fathom
