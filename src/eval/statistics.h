// Means with standard errors and intervals, of one run and of the difference of two runs over the
// same items. All in float64. Sums are taken in the order of the items, so the same records give
// the same digits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace fathom::eval {

inline constexpr double kConfidence = 0.95;

struct Estimate {
  double value = 0;
  double standard_error = 0;  // of `value`; 0 for fewer than two items
  double low = 0, high = 0;   // two-sided interval of kConfidence; [value, value] without an error
  size_t items = 0;
};

// A measured item: `value` is its total over `weight` units, such as nats over the tokens of a
// window.
struct Sample {
  double value = 0;
  double weight = 1;
};

// Returns the quantile `p`, 0 < p < 1, of Student's t distribution with `freedom` degrees of
// freedom.
double t_quantile(double p, double freedom);
// The same of the normal distribution.
double normal_quantile(double p);

// sum(value) / sum(weight), with the standard error of a ratio estimator over items (Cochran,
// Sampling Techniques, section 2.11) and Student's interval.
Estimate ratio_of(std::span<const Sample> samples);

// ratio_of(a) - ratio_of(b) over the same items, with the same weights in both. The error is that
// of the items' differences, which is small if both runs find the same items hard.
Estimate paired_difference(std::span<const Sample> a, std::span<const Sample> b);

// A share of successes; the interval is Wilson's, which holds near 0 and 1, too.
Estimate share_of(int64_t successes, int64_t items);

// Difference of two shares over the same items, of which `only_a` succeeded in a alone and `only_b`
// in b alone. The interval is Agresti and Min's (Statistics in Medicine 24, 2005): half an item is
// added to each of the four cells, so that the interval is not empty when no item differs.
Estimate paired_share_difference(int64_t only_a, int64_t only_b, int64_t items);

// Probability that at least one of k samples is right, estimated without bias from n samples of
// which c are right: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, section 2.1). 1 <= k <= n.
double pass_at_k(int64_t n, int64_t c, int64_t k);

}  // namespace fathom::eval
