// A rendered prompt: control markers of the template, and ordinary text. Markers in ordinary text
// have no effect, so nobody can speak as the assistant by writing "<｜Assistant｜>" into a message.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace fathom {

struct Segment {
  std::string text;
  bool is_control = false;  // exactly one marker of text/chat_markers.h

  bool operator==(const Segment&) const = default;
};

class PromptBuilder {
 public:
  void control(std::string_view marker) { segments_.push_back({std::string(marker), true}); }

  // Adds text of a message, a tool or a schema. It is joined with the text before it, because the
  // result of BPE depends on that text.
  void plain(std::string_view text);

  // Adds text of the template itself, in which markers are control markers.
  void template_text(std::string_view text);

  std::vector<Segment> take() { return std::move(segments_); }

 private:
  std::vector<Segment> segments_;
};

std::string to_text(const std::vector<Segment>& segments);

// Control markers become their added tokens. A marker that this tokenizer does not have is encoded
// as ordinary text.
std::vector<int32_t> encode_segments(const Tokenizer& tokenizer,
                                     const std::vector<Segment>& segments);

}  // namespace fathom
