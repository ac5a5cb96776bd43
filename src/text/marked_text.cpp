#include "text/marked_text.h"

#include <algorithm>

#include "text/chat_markers.h"
#include "text/utf8.h"

namespace fathom {
namespace {

constexpr char kEndLetter = '\0';

struct Marker {
  std::string_view text;
  char letter;
  Encoding encoding;  // the encoding whose calls use the marker
};
constexpr Marker kMarkers[] = {
    {marker::kCallsBegin, mark::kCallsBegin, Encoding::v31},
    {marker::kCallsEnd, mark::kCallsEnd, Encoding::v31},
    {marker::kCallBegin, mark::kCallBegin, Encoding::v31},
    {marker::kCallEnd, mark::kCallEnd, Encoding::v31},
    {marker::kToolSep, mark::kToolSep, Encoding::v31},
    {marker::kDsml, mark::kDsml, Encoding::v32},
};

// Length of the longest end of `text` that may be the beginning of `marker`.
size_t partial_marker(std::string_view text, std::string_view marker) {
  for (size_t n = std::min(text.size(), marker.size() - 1); n > 0; --n) {
    if (text.ends_with(marker.substr(0, n))) return n;
  }
  return 0;
}

}  // namespace

size_t unmarked_size(std::string_view marked) {
  size_t size = marked.size();
  for (size_t at = marked.find(kMark); at != marked.npos; at = marked.find(kMark, at + 2)) {
    for (const Marker& m : kMarkers)
      if (m.letter == marked[at + 1]) size += m.text.size() - 2;
  }
  return size;
}

std::string_view DsmlTag::name() const {
  constexpr std::string_view kAttribute = " name=\"";
  const size_t begin = inside.find(kAttribute);
  if (begin == inside.npos) return {};
  const std::string_view from = inside.substr(begin + kAttribute.size());
  return from.substr(0, from.find('"'));
}

DsmlTag dsml_tag_at(std::string_view marked) {
  DsmlTag tag;
  tag.closing = marked.starts_with("</");
  const size_t begin = tag.closing ? 4 : 3;
  const std::string_view text = marked.substr(begin, kMaxDsmlTag);
  const size_t end = text.find_first_of(">\n<\xFF");
  if (end == text.npos) {
    tag.open = text.size() < kMaxDsmlTag;
    return tag;
  }
  if (text[end] != '>') return tag;
  tag.inside = text.substr(0, end);
  tag.size = begin + end + 1;
  return tag;
}

std::string without_markers(std::string_view marked) {
  std::string out;
  while (true) {
    const size_t at = marked.find(kMark);
    if (at == marked.npos) return out.append(marked);
    std::string_view before = marked.substr(0, at);
    if (marked[at + 1] != mark::kDsml) {
      out += before;
      marked.remove_prefix(at + 2);
      continue;
    }
    size_t lead = before.ends_with("</") ? 2 : before.ends_with("<") ? 1 : 0;
    out += before.substr(0, before.size() - lead);
    const DsmlTag tag = lead > 0 ? dsml_tag_at(marked.substr(at - lead)) : DsmlTag();
    out += tag.name();
    marked.remove_prefix(tag.size > 0 ? at - lead + tag.size : at + 2);
  }
}

MarkerReader::MarkerReader(Encoding encoding, const std::vector<std::string_view>& tokens) {
  const auto spelled = [&](std::string_view text) {
    return std::find(tokens.begin(), tokens.end(), text) == tokens.end();
  };
  if (spelled(marker::kEos)) spelled_.push_back({marker::kEos, 0, kEndLetter});
  for (const Marker& m : kMarkers) {
    if (m.encoding != encoding || !spelled(m.text)) continue;
    if (m.letter != mark::kDsml) {
      spelled_.push_back({m.text, 0, m.letter});
      continue;
    }
    // As text, this marker is recognised only together with the beginning of its tag.
    spelled_.push_back({"<｜DSML｜", 1, m.letter});
    spelled_.push_back({"</｜DSML｜", 2, m.letter});
  }
}

void MarkerReader::text(std::string_view text, std::string& out) {
  if (ended_) return;
  held_ += text;
  size_t done = 0;
  while (true) {
    const std::string_view rest = std::string_view(held_).substr(done);
    size_t at = rest.npos;
    const Spelled* first = nullptr;
    for (const Spelled& s : spelled_) {
      const size_t found = rest.substr(0, at).find(s.text);
      if (found == rest.npos) continue;
      at = found;
      first = &s;
    }
    if (!first) break;
    out += replace_invalid_utf8(rest.substr(0, at + first->before));
    done += at + first->text.size();
    if (first->letter == kEndLetter) {
      ended_ = true;
      held_.clear();
      return;
    }
    out += {kMark, first->letter};
  }
  const std::string_view rest = std::string_view(held_).substr(done);
  size_t hold = incomplete_utf8_tail(rest);
  for (const Spelled& s : spelled_) hold = std::max(hold, partial_marker(rest, s.text));
  out += replace_invalid_utf8(rest.substr(0, rest.size() - hold));
  held_.erase(0, held_.size() - hold);
}

void MarkerReader::marker(std::string_view marker, std::string& out) {
  if (ended_) return;
  // Nothing goes on across a token of another kind.
  out += replace_invalid_utf8(held_);
  held_.clear();
  if (marker == marker::kEos) {
    ended_ = true;
    return;
  }
  for (const Marker& m : kMarkers)
    if (m.text == marker) out += {kMark, m.letter};
}

bool MarkerReader::holds_part() const {
  return std::any_of(held_.begin(), held_.end(), [](char c) { return c < 0; });
}

void MarkerReader::finish(bool keep, std::string& out) {
  if (keep && !ended_) out += replace_invalid_utf8(held_);
  held_.clear();
  ended_ = true;
}

}  // namespace fathom
