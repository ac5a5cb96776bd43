#include "text/prompt.h"

#include "text/chat_markers.h"

namespace fathom {

void PromptBuilder::plain(std::string_view text) {
  if (text.empty()) return;
  if (segments_.empty() || segments_.back().is_control) segments_.push_back({});
  segments_.back().text += text;
}

void PromptBuilder::template_text(std::string_view text) {
  while (!text.empty()) {
    size_t first = text.size();
    std::string_view found;
    for (const std::string_view marker : marker::kAll) {
      const size_t at = text.find(marker);
      if (at < first) first = at, found = marker;
    }
    plain(text.substr(0, first));
    if (!found.empty()) control(found);
    text.remove_prefix(first + found.size());
  }
}

std::string to_text(const std::vector<Segment>& segments) {
  std::string text;
  for (const Segment& s : segments) text += s.text;
  return text;
}

std::vector<int32_t> encode_segments(const Tokenizer& tokenizer,
                                     const std::vector<Segment>& segments) {
  std::vector<int32_t> ids;
  std::string text;
  const auto flush = [&] {
    tokenizer.encode_plain(text, ids);
    text.clear();
  };
  for (const Segment& s : segments) {
    const auto id = s.is_control ? tokenizer.added_id_of(s.text) : std::nullopt;
    if (!id) {
      text += s.text;
      continue;
    }
    flush();
    ids.push_back(*id);
  }
  flush();
  return ids;
}

}  // namespace fathom
