#include "text/tool_call_reader.h"

#include <algorithm>
#include <utility>

#include "text/marked_text.h"
#include "text/python_json.h"

namespace fathom {
namespace {

constexpr std::string_view kSpace = " \t\r\n";
constexpr std::string_view kParameterBegin =
    "<\xFF"
    "Dparameter name=\"";
constexpr std::string_view kParameterEnd =
    "</\xFF"
    "Dparameter>";
constexpr std::string_view kInvokeEnd =
    "</\xFF"
    "Dinvoke>";
constexpr size_t kMaxLead = 1024;  // white space in front of the arguments

bool may_become(std::string_view text, std::string_view whole) { return whole.starts_with(text); }

void skip_space(std::string_view& text) {
  text.remove_prefix(std::min(text.find_first_not_of(kSpace), text.size()));
}

}  // namespace

size_t ToolCallReader::read(std::string_view marked) {
  std::string_view text = marked;
  while (status_ == Status::reading && read_part(text)) {
  }
  return marked.size() - text.size();
}

bool ToolCallReader::read_part(std::string_view& text) {
  switch (part_) {
    case Part::name:
      return v31_ ? read_name_v31(text) : read_name_v32(text);
    case Part::lead:
      return read_lead(text);
    case Part::arguments:
      return read_arguments(text);
    case Part::parameters:
      return read_parameters(text);
    case Part::text_value:
    case Part::other_value:
      return read_value(text);
  }
  return false;
}

bool ToolCallReader::give_up() {
  status_ = Status::unreadable;
  return false;
}

bool ToolCallReader::read_name_v31(std::string_view& text) {
  const size_t end = text.find(kMark);
  if (end == text.npos && text.size() <= kMaxNameBytes) return false;
  if (end == text.npos || end == 0 || end > kMaxNameBytes || text[end + 1] != mark::kToolSep)
    return give_up();
  name_ = text.substr(0, end);
  text.remove_prefix(end + 2);
  part_ = Part::lead;
  return true;
}

// A call is announced only when its arguments begin like an object. Until then the text can still
// turn out to be no call and be returned as a whole.
bool ToolCallReader::read_lead(std::string_view& text) {
  std::string_view ahead = text;
  skip_space(ahead);
  if (!ahead.empty() && ahead[0] != '{') return give_up();
  if (!ahead.empty()) ahead.remove_prefix(1);
  skip_space(ahead);
  if (ahead.empty()) return text.size() > kMaxLead && give_up();
  if (ahead[0] != '"' && ahead[0] != '}') return give_up();
  announced_ = true;
  part_ = Part::arguments;
  return true;
}

bool ToolCallReader::read_arguments(std::string_view& text) {
  size_t size = 0;
  while (size < text.size() && text[size] != kMark && json_.push(text[size])) ++size;
  arguments_ += text.substr(0, size);
  text.remove_prefix(size);
  if (text.empty()) return false;
  if (text[0] != kMark || text[1] != mark::kCallEnd || !json_.complete()) return give_up();
  text.remove_prefix(2);
  status_ = Status::complete;
  return false;
}

bool ToolCallReader::read_name_v32(std::string_view& text) {
  const size_t end = text.find_first_of("\"<>\n\xFF");
  if (end == text.npos) return text.size() > kMaxNameBytes && give_up();
  if (end == 0 || end > kMaxNameBytes || text[end] != '"') return give_up();
  if (end + 1 == text.size()) return false;
  if (text[end + 1] != '>') return give_up();
  name_ = text.substr(0, end);
  text.remove_prefix(end + 2);
  part_ = Part::parameters;
  return true;
}

bool ToolCallReader::read_parameters(std::string_view& text) {
  skip_space(text);
  announced_ = announced_ || text.starts_with(kParameterBegin.substr(0, 3)) ||
               text.starts_with(kInvokeEnd.substr(0, 4));
  if (text.starts_with(kInvokeEnd)) {
    text.remove_prefix(kInvokeEnd.size());
    arguments_ += members_ == 0 ? "{}" : "}";
    status_ = Status::complete;
    return false;
  }
  if (text.starts_with(kParameterBegin)) return open_parameter(text);
  return !may_become(text, kInvokeEnd) && !may_become(text, kParameterBegin) && give_up();
}

bool ToolCallReader::open_parameter(std::string_view& text) {
  constexpr std::string_view kKind = "\" string=\"", kText = "true\">", kOther = "false\">";
  const std::string_view inside = text.substr(kParameterBegin.size());
  const size_t end = inside.find(kKind);
  if (inside.substr(0, end).find(kMark) != inside.npos) return give_up();
  if (end == inside.npos) return inside.size() > kMaxDsmlTag && give_up();
  const std::string_view kind = inside.substr(end + kKind.size());
  const bool is_text = kind.starts_with(kText), is_other = kind.starts_with(kOther);
  if (!is_text && !is_other)
    return !may_become(kind, kText) && !may_become(kind, kOther) && give_up();
  if (++members_ > kMaxJsonMembers) return give_up();
  arguments_ += members_ == 1 ? "{" : ", ";
  arguments_ += python_dumps(inside.substr(0, end)) + ": ";
  if (is_text) arguments_ += '"';
  part_ = is_text ? Part::text_value : Part::other_value;
  json_ = JsonProgress(1);
  space_.clear();
  value_begun_ = false;
  text = kind.substr(is_text ? kText.size() : kOther.size());
  return true;
}

bool ToolCallReader::read_value(std::string_view& text) {
  const size_t marker = text.find(kMark);
  const std::string_view before = text.substr(0, marker);
  const size_t lead = before.ends_with("</") ? 2 : before.ends_with("<") ? 1 : 0;
  const size_t size = before.size() - lead;
  const size_t added = add_to_value(text.substr(0, size));
  text.remove_prefix(added);
  if (added < size) return give_up();
  if (marker == text.npos) return false;
  if (!text.starts_with(kParameterEnd)) return !may_become(text, kParameterEnd) && give_up();
  if (part_ == Part::other_value && !json_.complete()) return give_up();
  if (part_ == Part::text_value) arguments_ += '"';
  text.remove_prefix(kParameterEnd.size());
  part_ = Part::parameters;
  return true;
}

// Adds text to the value. Returns the number of bytes used; the next byte would make it invalid
// JSON.
size_t ToolCallReader::add_to_value(std::string_view text) {
  if (part_ == Part::text_value) {
    const std::string spelled = python_dumps(text);
    arguments_ += std::string_view(spelled).substr(1, spelled.size() - 2);
    return text.size();
  }
  for (size_t i = 0; i < text.size(); ++i) {
    const bool space = !json_.in_string() && kSpace.find(text[i]) != kSpace.npos;
    if (!json_.push(text[i])) return i;
    if (space) {
      if (value_begun_) space_ += text[i];
      continue;
    }
    value_begun_ = true;
    arguments_ += std::exchange(space_, {});
    arguments_ += text[i];
  }
  return text.size();
}

}  // namespace fathom
