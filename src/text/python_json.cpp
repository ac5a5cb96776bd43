#include "text/python_json.h"

#include <charconv>
#include <cmath>

#include "base/check.h"

namespace fathom {
namespace {

// repr(float): the shortest digits that read back as the same number, an exponent of at least two
// digits outside 1e-4 <= |x| < 1e16, and always a '.', an exponent or both.
std::string python_float(double x) {
  if (!std::isfinite(x)) return std::isnan(x) ? "NaN" : x < 0 ? "-Infinity" : "Infinity";
  char buffer[64];
  const double size = std::fabs(x);
  const auto format = size != 0 && (size < 1e-4 || size >= 1e16) ? std::chars_format::scientific
                                                                 : std::chars_format::fixed;
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof(buffer), x, format);
  FATHOM_CHECK(error == std::errc(), "no room for {}", x);
  std::string text(buffer, end);
  if (text.find_first_of(".e") == text.npos) text += ".0";
  return text;
}

// Python escapes the same characters as nlohmann's library. A model's output may hold invalid
// UTF-8, which becomes U+FFFD instead of an exception.
std::string python_string(const std::string& text) {
  return OrderedJson(text).dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

void append(std::string& out, const OrderedJson& value) {
  const char* separator = "";
  if (value.is_object()) {
    out += '{';
    for (const auto& [key, member] : value.items()) {
      out += separator;
      out += python_string(key);
      out += ": ";
      append(out, member);
      separator = ", ";
    }
    out += '}';
  } else if (value.is_array()) {
    out += '[';
    for (const auto& item : value) {
      out += separator;
      append(out, item);
      separator = ", ";
    }
    out += ']';
  } else if (value.is_number_float()) {
    out += python_float(value.get<double>());
  } else if (value.is_string()) {
    out += python_string(value.get_ref<const std::string&>());
  } else {
    out += value.dump();
  }
}

}  // namespace

std::string python_dumps(const OrderedJson& value) {
  std::string out;
  append(out, value);
  return out;
}

}  // namespace fathom
