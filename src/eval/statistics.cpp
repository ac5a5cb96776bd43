#include "eval/statistics.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/check.h"

namespace fathom::eval {
namespace {

// Continued fraction of the incomplete beta function (DLMF 8.17.22), evaluated from the front by
// the modified Lentz method.
double beta_fraction(double x, double a, double b) {
  constexpr double kTiny = 1e-300;
  auto away_from_zero = [](double v) { return std::fabs(v) < kTiny ? kTiny : v; };
  double c = 1, d = 1 / away_from_zero(1 - (a + b) * x / (a + 1)), f = d;
  for (int m = 1; m <= 500; ++m) {
    for (const double term : {m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
                              -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))}) {
      d = 1 / away_from_zero(1 + term * d);
      c = away_from_zero(1 + term / c);
      f *= c * d;
    }
    if (std::fabs(c * d - 1) < 1e-15) break;
  }
  return f;
}

// Regularised incomplete beta function I_x(a, b).
double incomplete_beta(double x, double a, double b) {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  const double front = std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) +
                                a * std::log(x) + b * std::log1p(-x));
  // The fraction converges fast on one side of the mean; the other follows by symmetry.
  if (x < (a + 1) / (a + b + 2)) return front * beta_fraction(x, a, b) / a;
  return 1 - front * beta_fraction(1 - x, b, a) / b;
}

// Share of Student's t distribution below t >= 0.
double t_below(double t, double freedom) {
  return 1 - incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5) / 2;
}

// The x >= 0 at which the rising function `below` reaches p.
template <class F>
double inverse(double p, F below) {
  double high = 1;
  while (below(high) < p && high < 1e300) high *= 2;
  double low = 0;
  for (int i = 0; i < 200 && low < high; ++i) {
    const double middle = low + (high - low) / 2;
    if (middle <= low || middle >= high) break;
    (below(middle) < p ? low : high) = middle;
  }
  return high;
}

Estimate with_t_interval(double value, double standard_error, size_t items) {
  Estimate e{value, standard_error, value, value, items};
  if (items < 2) return e;
  const double t = t_quantile((1 + kConfidence) / 2, static_cast<double>(items - 1));
  e.low = value - t * standard_error;
  e.high = value + t * standard_error;
  return e;
}

}  // namespace

double t_quantile(double p, double freedom) {
  FATHOM_CHECK(p > 0 && p < 1 && freedom > 0, "t quantile of {} with {}", p, freedom);
  if (p < 0.5) return -t_quantile(1 - p, freedom);
  return inverse(p, [&](double t) { return t_below(t, freedom); });
}

double normal_quantile(double p) {
  FATHOM_CHECK(p > 0 && p < 1, "normal quantile of {}", p);
  if (p < 0.5) return -normal_quantile(1 - p);
  return inverse(p, [](double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); });
}

Estimate ratio_of(std::span<const Sample> samples) {
  double value = 0, weight = 0;
  for (const Sample& s : samples) {
    value += s.value;
    weight += s.weight;
  }
  if (weight <= 0) return {};
  const double ratio = value / weight;
  const auto n = static_cast<double>(samples.size());
  double squares = 0;
  for (const Sample& s : samples) {
    const double rest = s.value - ratio * s.weight;
    squares += rest * rest;
  }
  const double error = samples.size() < 2 ? 0 : std::sqrt(n / (n - 1) * squares) / weight;
  return with_t_interval(ratio, error, samples.size());
}

Estimate paired_difference(std::span<const Sample> a, std::span<const Sample> b) {
  FATHOM_CHECK(a.size() == b.size(), "{} items paired with {}", a.size(), b.size());
  std::vector<Sample> differences;
  for (size_t i = 0; i < a.size(); ++i) {
    FATHOM_CHECK(a[i].weight == b[i].weight, "item {} weighs {} and {}", i, a[i].weight,
                 b[i].weight);
    differences.push_back({a[i].value - b[i].value, a[i].weight});
  }
  return ratio_of(differences);
}

Estimate share_of(int64_t successes, int64_t items) {
  if (items == 0) return {};
  const auto n = static_cast<double>(items);
  const double p = static_cast<double>(successes) / n;
  const double z = normal_quantile((1 + kConfidence) / 2), zz = z * z;
  const double middle = (p + zz / (2 * n)) / (1 + zz / n);
  const double half = z / (1 + zz / n) * std::sqrt(p * (1 - p) / n + zz / (4 * n * n));
  // The sample's own standard error, as for any mean; it is 0 where all items agree.
  const double error = items < 2 ? 0 : std::sqrt(p * (1 - p) / (n - 1));
  return {p, error, std::max(0.0, middle - half), std::min(1.0, middle + half),
          static_cast<size_t>(items)};
}

Estimate paired_share_difference(int64_t only_a, int64_t only_b, int64_t items) {
  if (items == 0) return {};
  const auto n = static_cast<double>(items);
  const auto a = static_cast<double>(only_a), b = static_cast<double>(only_b);
  const double difference = (a - b) / n;
  const double error = items < 2 ? 0 : std::sqrt((a + b - (a - b) * (a - b) / n) / (n - 1) / n);
  const double more = n + 2, middle = (a - b) / more;
  const double half = normal_quantile((1 + kConfidence) / 2) *
                      std::sqrt(a + b + 1 - (a - b) * (a - b) / more) / more;
  return {difference, error, std::max(-1.0, middle - half), std::min(1.0, middle + half),
          static_cast<size_t>(items)};
}

double pass_at_k(int64_t n, int64_t c, int64_t k) {
  FATHOM_CHECK(c >= 0 && c <= n && k >= 1 && k <= n, "pass@{} of {} right in {}", k, c, n);
  if (n - c < k) return 1;
  double none = 1;
  for (int64_t i = n - c + 1; i <= n; ++i)
    none *= 1 - static_cast<double>(k) / static_cast<double>(i);
  return 1 - none;
}

}  // namespace fathom::eval
