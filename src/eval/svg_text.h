// Helpers for the pictures of an evaluation.
#pragma once

#include <string>

namespace fathom::eval {

// Escapes text for an SVG document.
std::string svg_text(const std::string& text);
// Returns the beginning of an SVG document with a white background; `style` is added to its style.
std::string svg_head(double width, double height, const std::string& style = {});

}  // namespace fathom::eval
