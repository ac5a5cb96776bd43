// Rotary embedding with YaRN frequencies (YaRN paper, section 3; DeepSeek-V3 report, section 4.3).
// cos and sin are never scaled: YaRN's mscale goes into the softmax scale alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "numerics/host_device.h"

namespace fathom {

struct YarnParams {
  double factor = 1.0;
  double original_context = 4096;
  double beta_fast = 32, beta_slow = 1;
  double mscale_all_dim = 1.0;
};

// Radians per position of pair i, i = 0 .. dim/2 - 1. `yarn` may be null: plain rope.
inline std::vector<float> rope_frequencies(int dim, double theta, const YarnParams* yarn) {
  std::vector<float> f(dim / 2);
  auto dim_of = [&](double rotations) {
    return dim * std::log(yarn->original_context / (rotations * 2 * M_PI)) / (2 * std::log(theta));
  };
  double lo = 0, hi = 0;
  if (yarn) {
    lo = std::max(std::floor(dim_of(yarn->beta_fast)), 0.0);
    hi = std::min(std::ceil(dim_of(yarn->beta_slow)), dim - 1.0);
    if (lo == hi) hi += 0.001;  // a step instead of a ramp, without dividing by zero
  }
  for (int i = 0; i < dim / 2; ++i) {
    float base = 1.0f / static_cast<float>(std::pow(theta, static_cast<float>(2 * i) / dim));
    if (!yarn) {
      f[i] = base;
      continue;
    }
    double ramp = std::clamp((i - lo) / (hi - lo), 0.0, 1.0);
    f[i] = static_cast<float>(base / yarn->factor * ramp + base * (1.0 - ramp));
  }
  return f;
}

// 192^-0.5 * m^2 for the real model: m grows with the context extension, not with the context.
inline double softmax_scale(int qk_head_dim, const YarnParams* yarn) {
  double scale = 1.0 / std::sqrt(static_cast<double>(qk_head_dim));
  if (!yarn) return scale;
  double m = 0.1 * yarn->mscale_all_dim * std::log(yarn->factor) + 1.0;
  return scale * m * m;
}

struct Pair {
  float a, b;
};

// Rotates one (a, b) pair. Which elements form a pair is the caller's business:
//   MLA q and k      (x[2i], x[2i + 1])     interleaved
//   indexer q and k  (x[i], x[i + d/2])     split halves
FATHOM_HD inline Pair rotate(Pair p, float cos, float sin) {
  return {p.a * cos - p.b * sin, p.a * sin + p.b * cos};
}

}  // namespace fathom
