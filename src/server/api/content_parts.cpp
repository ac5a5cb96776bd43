#include "server/api/content_parts.h"

#include "server/api/json_request.h"

namespace fathom::server {
namespace {

using At = JsonAt<OrderedJson>;

// The blocks of a document or a search result that are text.
std::string text_of_blocks(const At& at) {
  if (at.value().is_string()) return at.string();
  std::string text;
  for (size_t i = 0; i < at.array_size(); ++i)
    text += text_of_part(at.at(i)).value_or(placeholder_of(text_member(at.at(i).value(), "type")));
  return text;
}

std::string titled(const At& part, const std::string& text) {
  const At title = part.at("title");
  return title.null() ? text : title.string() + "\n" + text;
}

}  // namespace

std::string placeholder_of(std::string_view type) {
  std::string_view what = "file";
  if (type.find("image") != type.npos) what = "image";
  if (type.find("audio") != type.npos) what = "sound";
  if (type.find("video") != type.npos) what = "video";
  return fmt::format("[{}: this model reads text alone]", what);
}

std::optional<std::string> text_of_part(const At& part) {
  if (part.value().is_string()) return part.string();
  const std::string& type = part.at("type").string();
  for (const char* text : {"text", "input_text", "output_text", "reasoning_text", "summary_text"})
    if (type == text) return part.at("text").string();
  if (type == "refusal") return part.at("refusal").string();
  if (type == "tool_reference") return "[tool: " + part.at("tool_name").string() + "]";
  if (type == "search_result") return titled(part, text_of_blocks(part.at("content")));
  if (type != "document") return std::nullopt;
  const At source = part.at("source");
  const std::string kind = text_member(source.value(), "type");
  if (kind == "text") return titled(part, source.at("data").string());
  if (kind == "content") return titled(part, text_of_blocks(source.at("content")));
  return std::nullopt;
}

std::optional<size_t> asking_message(const OrderedJson& list) {
  if (!list.is_array()) return std::nullopt;
  for (size_t i = list.size(); i-- > 0;) {
    const std::string role = text_member(list[i], "role");
    if (role == "system" || role == "developer") continue;
    return role == "user" ? std::optional(i) : std::nullopt;
  }
  return std::nullopt;
}

OrderedJson with_text_parts(const At& messages) {
  OrderedJson list = messages.value();
  if (!list.is_array()) return list;
  const std::optional<size_t> asking = asking_message(list);
  for (size_t m = 0; m < list.size(); ++m) {
    OrderedJson& message = list[m];
    const auto content = message.is_object() ? message.find("content") : message.end();
    if (!message.is_object() || content == message.end() || !content->is_array()) continue;
    const At parts = messages.at(m).at("content");
    for (size_t p = 0; p < parts.array_size(); ++p) {
      const At part = parts.at(p);
      std::optional<std::string> text = text_of_part(part);
      if (!text && asking == m)
        fail("{}: expected 'text', found '{}': this model reads text alone", part.at("type").path(),
             part.at("type").string());
      (*content)[p] = {{"type", "text"},
                       {"text", text ? *text : placeholder_of(part.at("type").string())}};
    }
  }
  return list;
}

}  // namespace fathom::server
