#include "text/tool_call_text.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "text/chat_markers.h"
#include "text/json_limits.h"

namespace fathom {
namespace {

constexpr std::string_view kSpace = " \t\r\n";

std::string_view trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
}

// Takes `text` up to `end` off its front, `end` included but not returned.
std::optional<std::string_view> take_until(std::string_view& text, std::string_view end) {
  const size_t at = text.find(end);
  if (at == text.npos) return std::nullopt;
  const std::string_view front = text.substr(0, at);
  text.remove_prefix(at + end.size());
  return front;
}

bool take_literal(std::string_view& text, std::string_view literal) {
  if (!text.starts_with(literal)) return false;
  text.remove_prefix(literal.size());
  return true;
}

}  // namespace

std::optional<ToolCall> parse_call_v31(std::string_view body) {
  const auto name = take_until(body, marker::kToolSep);
  if (!name || name->empty()) return std::nullopt;
  if (!beyond_json_limits(body).empty()) return std::nullopt;
  if (!trim(body).starts_with('{') || !OrderedJson::accept(body)) return std::nullopt;
  return ToolCall{"", std::string(*name), std::string(body)};
}

std::optional<ToolCall> parse_call_v32(std::string_view body) {
  const auto name = take_until(body, "\">");
  if (!name || name->empty()) return std::nullopt;
  // Values stay text: numbers of any size keep their digits. A repeated key takes the place of its
  // first and the value of its last occurrence, as in Python's dict.
  std::vector<std::pair<std::string, std::string>> members;
  while (!(body = trim(body)).empty()) {
    if (!take_literal(body, "<｜DSML｜parameter name=\"")) return std::nullopt;
    const auto key = take_until(body, "\" string=\"");
    if (!key) return std::nullopt;
    const bool is_text = take_literal(body, "true\">");
    if (!is_text && !take_literal(body, "false\">")) return std::nullopt;
    const auto value = take_until(body, "</｜DSML｜parameter>");
    if (!value || (!is_text && !OrderedJson::accept(*value))) return std::nullopt;
    std::string json = is_text ? python_dumps(*value) : std::string(trim(*value));
    std::string json_key = python_dumps(*key);
    const auto same = std::find_if(members.begin(), members.end(),
                                   [&](const auto& m) { return m.first == json_key; });
    if (same != members.end()) {
      same->second = std::move(json);
    } else {
      if (members.size() == static_cast<size_t>(kMaxJsonMembers)) return std::nullopt;
      members.emplace_back(std::move(json_key), std::move(json));
    }
  }
  std::string arguments = "{";
  for (const auto& [key, value] : members) {
    if (arguments.size() > 1) arguments += ", ";
    arguments.append(key).append(": ").append(value);
  }
  arguments += '}';
  if (!beyond_json_limits(arguments).empty()) return std::nullopt;
  return ToolCall{"", std::string(*name), std::move(arguments)};
}

}  // namespace fathom
