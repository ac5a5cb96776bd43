// How the next token is drawn, as one rule for every device.
//
// Filters are applied in this order, each to the tokens that the one before has kept:
//   temperature   logits / temperature; 0 is greedy: the greatest logit, lowest id on ties
//   top-k         the k greatest logits (0: all)
//   top-p         the shortest prefix, in order of preference, whose probability reaches p; the
//                 probabilities are those among the tokens that top-k has kept
//   min-p         tokens at least min_p times as probable as the most probable one
// Tokens are preferred by higher logit, then by lower id.
//
// Probabilities are integers in units of 2^-40 of the most probable token's: sums of integers do
// not depend on their order, so any tiling on any device keeps the same set and draws the same
// token. The random number is a function of (seed, position) alone, so a request's tokens do not
// depend on what else is in the batch.
#pragma once

#include <cmath>
#include <cstdint>

#include "numerics/bf16.h"
#include "numerics/host_device.h"
#include "numerics/selection.h"

namespace fathom {

struct SamplingParams {
  float temperature = 0.6f;
  int top_k = 0;       // 0: off
  float top_p = 1.0f;  // 1: off
  float min_p = 0.0f;  // 0: off
  uint64_t seed = 0;
};

inline constexpr int kWeightBits = 40;  // 2^18 tokens of full weight still fit 64 bits

// Single operations, never fused, so that host and device round alike.
FATHOM_HD inline float mul_rounded(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
FATHOM_HD inline float add_rounded(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

FATHOM_HD inline uint64_t high_product(uint64_t a, uint64_t b) {
#if defined(__CUDA_ARCH__)
  return __umul64hi(a, b);
#else
  return static_cast<uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64);
#endif
}

// exp((logit - top) / temperature) in units of 2^-40, rounded down; `top` is the greatest logit.
// The exponential is spelled out: a library's differs from device to device in the last bit.
FATHOM_HD inline uint64_t sample_weight(float logit, float top, float inverse_temperature) {
  float x = mul_rounded(add_rounded(logit, -top), inverse_temperature);
  if (!(x > -27.8f)) return 0;  // below 2^-40; also -inf, and NaN of -inf * 0
  // e^x = 2^n e^r with |r| <= ln(2) / 2; ln(2) in two parts, the first exact in its product.
  float n = floorf(add_rounded(mul_rounded(x, 1.44269504f), 0.5f));
  float r = add_rounded(x, mul_rounded(n, -0.693359375f));
  r = add_rounded(r, mul_rounded(n, 2.12194440e-4f));
  float e = 1.98412698e-4f;
  const float taylor[] = {
      1.38888889e-3f, 8.33333333e-3f, 4.16666667e-2f, 0.166666667f, 0.5f, 1.0f, 1.0f};
  for (float term : taylor) e = add_rounded(mul_rounded(e, r), term);
  // e lies in [0.7, 1.42): its 24 bits shifted by the exponent, without leaving the integers.
  uint64_t weight = static_cast<uint64_t>(mul_rounded(e, 1099511627776.0f));  // 2^40
  weight >>= static_cast<int>(-n);
  const uint64_t one = uint64_t{1} << kWeightBits;
  return weight < one ? weight : one;
}

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"): key = seed,
// counter = position; the first 64 of its 128 bits.
FATHOM_HD inline uint64_t random_bits(uint64_t seed, uint64_t position) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  uint32_t c0 = static_cast<uint32_t>(position), c1 = static_cast<uint32_t>(position >> 32);
  uint32_t c2 = 0, c3 = 0;
  for (int round = 0; round < 10; ++round) {
    uint64_t a = uint64_t{0xD2511F53u} * c0, b = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(b);
    c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(a);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return (uint64_t{c1} << 32) | c0;
}

// A number in [0, total), uniform to within total / 2^64.
FATHOM_HD inline uint64_t draw_below(uint64_t bits, uint64_t total) {
  return high_product(bits, total);
}

// The cumulative weight at which top-p stops: the shortest prefix that reaches it is kept.
FATHOM_HD inline uint64_t nucleus_weight(uint64_t total, float top_p) {
  if (!(top_p < 1.0f)) return total;
  uint64_t weight = static_cast<uint64_t>(static_cast<double>(top_p) * static_cast<double>(total));
  return weight > 0 ? weight : 1;  // the most probable token always stays
}

// min-p drops tokens whose weight is less than this.
FATHOM_HD inline uint64_t least_weight(uint64_t top_weight, float min_p) {
  return static_cast<uint64_t>(static_cast<double>(min_p) * static_cast<double>(top_weight));
}

}  // namespace fathom
