#include "selfcheck/plain.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>
#include <numeric>

#include "selfcheck/rows.h"

namespace fathom {

std::vector<double> plain_frequencies(const Config& c) {
  std::vector<double> f(static_cast<size_t>(c.rope / 2));
  // The pair that turns `turns` times over the original context.
  auto pair_of = [&](double turns) {
    return c.rope * std::log(c.yarn->original_context / (2 * std::numbers::pi * turns)) /
           (2 * std::log(c.rope_theta));
  };
  for (size_t i = 0; i < f.size(); ++i) {
    f[i] = std::pow(c.rope_theta, -2.0 * static_cast<double>(i) / c.rope);
    if (!c.yarn) continue;
    double low = std::max(std::floor(pair_of(c.yarn->beta_fast)), 0.0);
    double high = std::min(std::ceil(pair_of(c.yarn->beta_slow)), c.rope - 1.0);
    double ramp = (static_cast<double>(i) - low) / std::max(high - low, 1e-3);
    ramp = std::min(std::max(ramp, 0.0), 1.0);
    f[i] = f[i] / c.yarn->factor * ramp + f[i] * (1 - ramp);
  }
  return f;
}

double plain_softmax_scale(const Config& c) {
  double m = c.yarn ? 0.1 * c.yarn->mscale_all_dim * std::log(c.yarn->factor) + 1 : 1;
  return m * m / std::sqrt(static_cast<double>(c.nope + c.rope));
}

void plain_rotate(double* x, std::span<const double> frequencies, int64_t position,
                  Pairing pairing) {
  size_t n = frequencies.size();
  for (size_t i = 0; i < n; ++i) {
    double& a = x[pairing == Pairing::halves ? i : 2 * i];
    double& b = x[pairing == Pairing::halves ? i + n : 2 * i + 1];
    double angle = static_cast<double>(position) * frequencies[i];
    double turned = a * std::cos(angle) - b * std::sin(angle);
    b = a * std::sin(angle) + b * std::cos(angle);
    a = turned;
  }
}

std::vector<double> plain_hadamard(std::span<const double> x) {
  std::vector<double> y(x.size(), 0.0);
  for (size_t j = 0; j < x.size(); ++j) {
    for (size_t i = 0; i < x.size(); ++i) y[j] += std::popcount(i & j) % 2 ? -x[i] : x[i];
    y[j] /= std::sqrt(static_cast<double>(x.size()));
  }
  return y;
}

std::vector<double> router_logits(const QWeight& gate, std::span<const float> x) {
  std::vector<double> logits(static_cast<size_t>(gate.rows), 0.0);
  for (int64_t e = 0; e < gate.rows; ++e)
    for (int64_t i = 0; i < gate.cols; ++i)
      logits[static_cast<size_t>(e)] += double{weight_at(gate, e, i)} * x[static_cast<size_t>(i)];
  return logits;
}

double longest_row(const QWeight& w) {
  std::vector<float> row(static_cast<size_t>(w.cols));
  double longest = 0;
  for (int64_t r = 0; r < w.rows; ++r) {
    load_weight_row(w, r, row.data());
    longest = std::max(longest, norm_of(row));
  }
  return longest;
}

namespace {

// Indices by descending value, the lower index first among equals.
std::vector<int32_t> ranking(std::span<const double> value) {
  std::vector<int32_t> order(value.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return value[static_cast<size_t>(a)] > value[static_cast<size_t>(b)];
  });
  return order;
}

}  // namespace

PlainRouting plain_routing(std::vector<double> logits, const float* bias, const RouterShape& s) {
  size_t n = logits.size(), width = n / static_cast<size_t>(s.groups);
  std::vector<double>& score = logits;
  double total = 0, top = *std::max_element(score.begin(), score.end());
  for (double v : score) total += std::exp(v - top);
  for (double& v : score) v = s.sigmoid ? 1 / (1 + std::exp(-v)) : std::exp(v - top) / total;
  std::vector<double> biased = score;
  for (size_t e = 0; e < n && bias; ++e) biased[e] += bias[e];

  PlainRouting out;
  out.margin = INFINITY;
  auto decided_by = [&](double gap) { out.margin = std::min(out.margin, gap); };
  std::vector<double> group(static_cast<size_t>(s.groups));
  for (size_t g = 0; g < group.size(); ++g) {
    std::vector<double> own(biased.begin() + static_cast<int64_t>(g * width),
                            biased.begin() + static_cast<int64_t>((g + 1) * width));
    std::sort(own.rbegin(), own.rend());
    group[g] = own[0] + (width > 1 ? own[1] : 0);
  }
  std::vector<int32_t> groups = ranking(group);
  if (s.kept_groups < s.groups)
    decided_by(group[static_cast<size_t>(groups[static_cast<size_t>(s.kept_groups) - 1])] -
               group[static_cast<size_t>(groups[static_cast<size_t>(s.kept_groups)])]);
  for (size_t i = static_cast<size_t>(s.kept_groups); i < groups.size(); ++i)
    for (size_t e = 0; e < width; ++e)
      biased[static_cast<size_t>(groups[i]) * width + e] = -INFINITY;

  std::vector<int32_t> order = ranking(biased);
  double sum = 0;
  for (size_t k = 0; k < static_cast<size_t>(s.per_token); ++k) {
    size_t e = static_cast<size_t>(order[k]);
    out.ids.push_back(order[k]);
    out.weights.push_back(score[e]);
    sum += score[e];
    if (k + 1 < n) decided_by(biased[e] - biased[static_cast<size_t>(order[k + 1])]);
  }
  for (double& w : out.weights) w *= s.scale / (s.normalise ? sum : 1);
  return out;
}

}  // namespace fathom
