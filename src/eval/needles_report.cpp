// Needles as a table and as a heat map.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "eval/needles.h"
#include "eval/svg_text.h"

namespace fathom::eval {
namespace {

constexpr double kCellWidth = 64, kCellHeight = 30, kLeft = 80, kBarHeight = 14;

// From red over yellow to green.
std::string colour(double share) {
  const double x = std::clamp(share, 0.0, 1.0);
  const double red = x < 0.5 ? 215 : 215 + (2 * x - 1) * (26 - 215);
  const double green = x < 0.5 ? 60 + 2 * x * (200 - 60) : 200 + (2 * x - 1) * (152 - 200);
  return fmt::format("rgb({:.0f},{:.0f},{:.0f})", red, green, 70.0);
}

struct Grid {
  std::set<int64_t> lengths;
  std::set<double> depths;
  explicit Grid(const Json& extra) {
    for (const Json& cell : extra.at("cells")) {
      lengths.insert(cell.at("length").get<int64_t>());
      depths.insert(cell.at("depth").get<double>());
    }
  }
};

std::string text_at(double x, double y, const char* anchor, const std::string& text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor,
                     text);
}

// Draws one variant from `top` on; returns where it ends.
double draw(std::string& svg, double top, const std::string& name, const Json& extra) {
  const Grid grid(extra);
  svg += fmt::format(
      "<text x=\"{}\" y=\"{:.1f}\" class=\"title\">{}: recall by depth and length"
      "</text>\n",
      kLeft, top + 16, svg_text(name));
  top += 28;
  auto row_of = [&](double depth) {
    return top + kCellHeight * static_cast<double>(
                                   std::distance(grid.depths.begin(), grid.depths.find(depth)));
  };
  auto column_of = [&](int64_t length) {
    return kLeft + kCellWidth * static_cast<double>(
                                    std::distance(grid.lengths.begin(), grid.lengths.find(length)));
  };
  for (double depth : grid.depths)
    svg += text_at(kLeft - 8, row_of(depth) + 20, "end", fmt::format("{:g} %", 100 * depth));
  for (const Json& cell : extra.at("cells")) {
    const double x = column_of(cell.at("length").get<int64_t>());
    const double y = row_of(cell.at("depth").get<double>());
    const double recall = cell.at("recall").get<double>();
    svg += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{}\" height=\"{}\" fill=\"{}\"/>\n",
                       x, y, kCellWidth - 2, kCellHeight - 2, colour(recall));
    svg += text_at(x + kCellWidth / 2, y + 19, "middle", fmt::format("{:.0f}", 100 * recall));
  }
  double y = top + kCellHeight * static_cast<double>(grid.depths.size()) + 14;
  for (int64_t length : grid.lengths)
    svg += text_at(column_of(length) + kCellWidth / 2, y, "middle", std::to_string(length));
  y += 22;
  if (!extra.contains("picked_by_layer")) return y;
  svg += fmt::format(
      "<text x=\"{}\" y=\"{:.1f}\">share of the fact's tokens that the indexer "
      "picked, by layer</text>\n",
      kLeft, y);
  const Json& layers = extra.at("picked_by_layer");
  for (size_t i = 0; i < layers.size(); ++i) {
    const double share = layers[i].get<double>();
    y += kBarHeight + 3;
    svg += text_at(kLeft - 8, y + 2, "end", std::to_string(i));
    svg += fmt::format("<rect x=\"{}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{}\" fill=\"{}\"/>\n",
                       kLeft, y - 10, 240 * share, kBarHeight, colour(share));
    svg += text_at(kLeft + 240 * share + 6, y + 2, "start", fmt::format("{:.0f} %", 100 * share));
  }
  return y + 30;
}

}  // namespace

std::string needles_svg(const std::vector<std::pair<std::string, Json>>& variants) {
  std::string body;
  double y = 8, width = 420;
  for (const auto& [name, extra] : variants) {
    y = draw(body, y, name, extra);
    width =
        std::max(width, kLeft + 20 + kCellWidth * static_cast<double>(Grid(extra).lengths.size()));
  }
  return svg_head(width, y) + body + "</svg>\n";
}

std::string needles_text(const Json& extra) {
  const Grid grid(extra);
  std::string s = fmt::format("{:>8}", "depth");
  for (int64_t length : grid.lengths) s += fmt::format("{:>8}", length);
  s += "\n";
  for (double depth : grid.depths) {
    s += fmt::format("{:>7g}%", 100 * depth);
    for (int64_t length : grid.lengths) {
      std::string recall = "-";
      for (const Json& cell : extra.at("cells"))
        if (cell.at("length") == length && cell.at("depth") == depth)
          recall = fmt::format("{:.0f} %", 100 * cell.at("recall").get<double>());
      s += fmt::format("{:>8}", recall);
    }
    s += "\n";
  }
  if (extra.contains("picked_by_layer")) {
    s += "picked by the indexer, of the fact's tokens, by layer:";
    for (const Json& share : extra.at("picked_by_layer"))
      s += fmt::format(" {:.0f} %", 100 * share.get<double>());
    s += "\n";
  }
  return s;
}

}  // namespace fathom::eval
