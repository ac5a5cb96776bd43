#include "eval/svg_text.h"

#include <fmt/format.h>

namespace fathom::eval {

std::string svg_text(const std::string& text) {
  std::string s;
  for (char c : text) s += c == '<' ? "&lt;" : c == '&' ? "&amp;" : std::string(1, c);
  return s;
}

std::string svg_head(double width, double height, const std::string& style) {
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" "
      "viewBox=\"0 0 {0:.0f} {1:.0f}\">\n<style>text {{ font: 12px sans-serif; }} .title {{ "
      "font-weight: bold; }} {2}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
      width, height, style);
}

}  // namespace fathom::eval
