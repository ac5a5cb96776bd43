// Whether enorm and hnorm lie in each other's place in the checkpoint. Neither formulas nor runs of
// the block need tell: formulas take the files' word for which is which, and the two gains may be
// so alike that the block drafts as well with either.
//
// The weights tell by themselves. A gain and the column of eh_proj behind it act as a product, so
// their gradients, each times its own weight, are equal: training makes both larger or both
// smaller. Gains are therefore correlated with the lengths of their own columns, and with those of
// the other half at most by chance.
#include <cmath>
#include <numeric>

#include "kernels/cpu/rows.h"
#include "selfcheck/checks.h"

namespace fathom {
namespace {

// Of the difference of correlations, in standard errors: more is no chance.
constexpr double kMostNormErrors = 4;

const char* const kNormsWords = "the MTP block's enorm and hnorm fit their halves of eh_proj";

// Returns the correlation of a and b, NaN if either does not vary.
double correlation(std::span<const double> a, std::span<const double> b) {
  const auto n = static_cast<double>(a.size());
  const double mean_a = std::accumulate(a.begin(), a.end(), 0.0) / n,
               mean_b = std::accumulate(b.begin(), b.end(), 0.0) / n;
  double both = 0, of_a = 0, of_b = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    both += (a[i] - mean_a) * (b[i] - mean_b);
    of_a += (a[i] - mean_a) * (a[i] - mean_a);
    of_b += (b[i] - mean_b) * (b[i] - mean_b);
  }
  return both / std::sqrt(of_a * of_b);
}

}  // namespace

void check_mtp_norms(CheckContext& c) {
  if (!c.weights.mtp) return c.skip("mtp.norms", kNormsWords, "no MTP block");
  const MtpWeights& w = *c.weights.mtp;
  const auto hidden = static_cast<size_t>(c.config.hidden);
  std::vector<double> columns(2 * hidden);
  std::vector<float> row(2 * hidden);
  for (int64_t r = 0; r < c.config.hidden; ++r) {
    load_weight_row(w.combine, r, row.data());
    for (size_t i = 0; i < row.size(); ++i) {
      const double weight = row[i];
      columns[i] += weight * weight;
    }
  }
  for (double& v : columns) v = std::sqrt(v);
  const std::vector<double> embed(w.embed_norm, w.embed_norm + hidden),
      state(w.hidden_norm, w.hidden_norm + hidden);
  const auto half = [&](size_t i) { return std::span(columns).subspan(i * hidden, hidden); };
  const double own[] = {correlation(embed, half(0)), correlation(state, half(1))},
               other[] = {correlation(embed, half(1)), correlation(state, half(0))};
  // Fisher's z of each has a variance of 1 / (n - 3).
  const double better =
      (std::atanh(other[0]) + std::atanh(other[1]) - std::atanh(own[0]) - std::atanh(own[1])) *
      std::sqrt(static_cast<double>(hidden) - 3) / 2;
  if (!std::isfinite(better))
    return c.skip("mtp.norms", kNormsWords, "gains or columns are all alike");
  c.add("mtp.norms", kNormsWords,
        fmt::format("correlation {:.2f} {:.2f}, exchanged {:.2f} {:.2f}: {:.1f} better", own[0],
                    own[1], other[0], other[1], better),
        fmt::format("at most {} standard errors", kMostNormErrors), better <= kMostNormErrors);
}

}  // namespace fathom
