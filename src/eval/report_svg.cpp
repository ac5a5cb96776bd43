// Draws differences with their intervals: one line a task and comparison, around the line of no
// difference. Each kind of metric has its own scale.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "eval/report.h"
#include "eval/svg_text.h"

namespace fathom::eval {
namespace {

constexpr double kLine = 34, kLeft = 200, kPlot = 300, kWidth = 860;

struct Entry {
  std::string label;
  Metric metric;
  Comparison comparison;
};

double reach(const std::vector<Entry>& entries, bool nats) {
  double most = nats ? 0.005 : 0.02;
  for (const Entry& e : entries)
    if ((e.metric == Metric::nats_per_token) == nats)
      most = std::max(
          {most, std::fabs(e.comparison.difference.low), std::fabs(e.comparison.difference.high)});
  return 1.15 * most;
}

std::string line_of(const Entry& e, double y, double scale) {
  const Estimate& d = e.comparison.difference;
  auto x_of = [&](double value) { return kLeft + kPlot / 2 * (1 + value / scale); };
  std::string s = fmt::format("<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n",
                              kLeft - 12, y + 4, svg_text(e.label));
  s += fmt::format(
      "<line x1=\"{0:.1f}\" x2=\"{1:.1f}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\" "
      "class=\"interval\"/>\n",
      x_of(d.low), x_of(d.high), y);
  s += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\"/>\n", x_of(d.value), y);
  const bool nats = e.metric == Metric::nats_per_token;
  s += fmt::format("<text x=\"{}\" y=\"{:.1f}\" class=\"small\">{}</text>\n", kLeft + kPlot + 14,
                   y + 4, svg_text(e.comparison.verdict));
  for (double at : {-scale / 1.15, scale / 1.15})
    s += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"tick\">{}</text>\n", x_of(at), y + 16,
                     nats ? fmt::format("{:+.3f} nats", at) : fmt::format("{:+.1f} %", 100 * at));
  return s;
}

}  // namespace

std::string parity_svg(const Report& report) {
  std::vector<Entry> entries;
  for (const TaskReport& t : report.tasks)
    for (const Comparison& c : t.comparisons)
      if (c.difference.items > 0)
        entries.push_back(
            {t.comparisons.size() > 1 ? fmt::format("{}, {}", t.name, c.variant) : t.name, t.metric,
             c});
  const double height = 60 + kLine * static_cast<double>(entries.size());
  std::string title = "differences";
  if (!entries.empty())
    title = fmt::format("{} - {}, with {:.0f} % intervals", entries[0].comparison.variant,
                        entries[0].comparison.reference, 100 * kConfidence);
  std::string s = svg_head(kWidth, height,
                           ".interval { stroke: #2563a8; stroke-width: 3; } circle { fill: "
                           "#2563a8; } .zero { stroke: #999; } .small { font-size: 11px; } .tick { "
                           "font-size: 9px; fill: #777; text-anchor: middle; }");
  s += fmt::format("<text x=\"{}\" y=\"22\" class=\"title\">{}</text>\n", kLeft, svg_text(title));
  s += fmt::format("<line x1=\"{0}\" x2=\"{0}\" y1=\"34\" y2=\"{1:.1f}\" class=\"zero\"/>\n",
                   kLeft + kPlot / 2, height - 12);
  double y = 50;
  for (const Entry& e : entries) {
    s += line_of(e, y, reach(entries, e.metric == Metric::nats_per_token));
    y += kLine;
  }
  return s + "</svg>\n";
}

}  // namespace fathom::eval
