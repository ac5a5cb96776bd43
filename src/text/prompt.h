// A rendered prompt: control markers of the template, and text that is never more than text, so
// that nobody speaks as the assistant by writing "<｜Assistant｜>" into a message.
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

  // Text of a message, a tool or a schema. Joins the text before it: BPE depends on its context.
  void plain(std::string_view text);

  // Text of the template itself, in which markers are markers.
  void template_text(std::string_view text);

  std::vector<Segment> take() { return std::move(segments_); }

 private:
  std::vector<Segment> segments_;
};

std::string to_text(const std::vector<Segment>& segments);

// Control markers become their added token; one that this tokenizer does not have is ordinary text.
std::vector<int32_t> encode_segments(const Tokenizer& tokenizer,
                                     const std::vector<Segment>& segments);

}  // namespace fathom
