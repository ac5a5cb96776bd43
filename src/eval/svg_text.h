// What the pictures of an evaluation have in common.
#pragma once

#include <string>

namespace fathom::eval {

// Text inside an SVG document.
std::string svg_text(const std::string& text);
// The beginning of a document with a white ground; `style` adds to it.
std::string svg_head(double width, double height, const std::string& style = {});

}  // namespace fathom::eval
