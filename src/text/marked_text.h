// The text of an answer with the markers of tool calls set apart from what is only text.
//
// A marker that is a token of the vocabulary is a marker only as that token: the same characters in
// ordinary tokens are text, wherever they stand. Where the vocabulary has no such token, the
// characters are the marker.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat.h"

namespace fathom {

// Marked text is UTF-8 in which a marker is two bytes: this one, which UTF-8 never has, and a
// letter.
inline constexpr char kMark = '\xFF';
namespace mark {
inline constexpr char kCallsBegin = 'B', kCallsEnd = 'E', kCallBegin = 'b', kCallEnd = 'e',
                      kToolSep = 's', kDsml = 'D';
}  // namespace mark

// Bytes of the text and the markers that `marked` stands for.
size_t unmarked_size(std::string_view marked);

// `marked` without its markers, and without the tags around those of v3.2; what a tag's name
// attribute says is kept.
std::string without_markers(std::string_view marked);

// The tag of v3.2 at the beginning of `marked`, which is "<" or "</" and then the DSML marker.
struct DsmlTag {
  bool closing = false;
  std::string_view inside;  // between the marker and ">"
  size_t size = 0;          // of the whole tag; 0: it has no end, or none within kMaxDsmlTag bytes
  bool open = false;        // size is 0 for lack of text: more of it may bring the end
  // What the name attribute says; empty without one.
  std::string_view name() const;
};
inline constexpr size_t kMaxDsmlTag = 4096;
DsmlTag dsml_tag_at(std::string_view marked);

// Thread-compatible.
class MarkerReader {
 public:
  // `tokens`: the markers (of text/chat_markers.h) that are tokens of the vocabulary.
  MarkerReader(Encoding encoding, const std::vector<std::string_view>& tokens);

  // Appends text of ordinary tokens, cut anywhere, to the marked text `out`. Bytes that are not
  // UTF-8 become U+FFFD; what may be the beginning of a character or a marker is held back.
  void text(std::string_view text, std::string& out);
  // Appends a marker that has come as its token.
  void marker(std::string_view marker, std::string& out);
  // No more will come. What is held back is text after all, or dropped.
  void finish(bool keep, std::string& out);

  // The end of sentence has been read: all that follows is ignored.
  bool ended() const { return ended_; }
  // Bytes held back.
  size_t held() const { return held_.size(); }
  // They are more than "<": part of a marker, or of a character.
  bool holds_part() const;

 private:
  struct Spelled {
    std::string_view text;
    size_t before;  // bytes of it in front of the marker, which stay text
    char letter;    // kEndLetter: the end of sentence
  };
  std::vector<Spelled> spelled_;  // markers to be looked for in the text
  std::string held_;
  bool ended_ = false;
};

}  // namespace fathom
