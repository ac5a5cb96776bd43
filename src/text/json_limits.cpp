#include "text/json_limits.h"

#include <fmt/format.h>

#include <array>

namespace fathom {

// Counts without parsing: brackets outside strings tell the depth, commas and colons the values.
std::string beyond_json_limits(std::string_view text) {
  std::array<int64_t, kMaxJsonDepth + 1> members{};
  int depth = 0;
  int64_t values = 1;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\')
        ++i;
      else if (c == '"')
        in_string = false;
      continue;
    }
    if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxJsonDepth)
        return fmt::format("nested deeper than {} levels at byte {}", kMaxJsonDepth, i);
      members[static_cast<size_t>(depth)] = 0;
      ++values;
    } else if (c == ']' || c == '}') {
      if (depth > 0) --depth;
    } else if (c == ',') {
      ++values;
    } else if (c == ':' && ++members[static_cast<size_t>(depth)] > kMaxJsonMembers) {
      return fmt::format("an object of more than {} members at byte {}", kMaxJsonMembers, i);
    }
    if (values > kMaxJsonValues)
      return fmt::format("more than {} values at byte {}", kMaxJsonValues, i);
  }
  return {};
}

}  // namespace fathom
