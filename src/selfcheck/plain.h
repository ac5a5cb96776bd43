// The model's rules written a second time, from the papers' formulas, in float64, without any code
// of src/numerics/. They find mistakes that the kernels and the reference have in common.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/qweight.h"
#include "model/config.h"

namespace fathom {

// YaRN (spec: YaRN paper, section 3): radians per position of each of rope / 2 pairs.
std::vector<double> plain_frequencies(const Config& c);

// qk_dim^-0.5 * (0.1 mscale_all_dim ln factor + 1)^2
double plain_softmax_scale(const Config& c);

enum class Pairing { neighbours, halves };

// Rotates x[0 .. 2 * frequencies) as a token at `position`.
void plain_rotate(double* x, std::span<const double> frequencies, int64_t position,
                  Pairing pairing);

// y_j = sum_i x_i (-1)^popcount(i & j) / sqrt(n): Sylvester's matrix by its definition.
std::vector<double> plain_hadamard(std::span<const double> x);

std::vector<double> router_logits(const QWeight& gate, std::span<const float> x);
double longest_row(const QWeight& w);

struct PlainRouting {
  std::vector<int32_t> ids;
  std::vector<double> weights;
  double margin = 0;  // smallest difference of scores that decided a choice; 0 at a tie
};
PlainRouting plain_routing(std::vector<double> logits, const float* bias, const RouterShape& shape);

}  // namespace fathom
