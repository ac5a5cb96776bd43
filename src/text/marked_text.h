// Marked text: the text of an answer, in which markers of tool calls are distinct from ordinary
// text.
//
// If a marker is a token of the vocabulary, only that token is the marker: the same characters in
// ordinary tokens are text. If the vocabulary has no such token, the characters are the marker.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat.h"

namespace fathom {

// Marked text is UTF-8 in which a marker is two bytes: kMark, which UTF-8 never contains, and a
// letter.
inline constexpr char kMark = '\xFF';
namespace mark {
inline constexpr char kCallsBegin = 'B', kCallsEnd = 'E', kCallBegin = 'b', kCallEnd = 'e',
                      kToolSep = 's', kDsml = 'D';
}  // namespace mark

// Returns the bytes of the original text, markers included.
size_t unmarked_size(std::string_view marked);

// Returns `marked` without its markers. Of a v3.2 tag only the value of its name attribute is kept.
std::string without_markers(std::string_view marked);

// A v3.2 tag at the beginning of marked text: "<" or "</", then the DSML marker.
struct DsmlTag {
  bool closing = false;
  std::string_view inside;  // between the marker and ">"
  size_t size = 0;  // of the whole tag; 0: no ">" was found, at least not within kMaxDsmlTag bytes
  bool open = false;  // size is 0, and more text may complete the tag
  // Returns the value of the name attribute; empty if there is none.
  std::string_view name() const;
};
inline constexpr size_t kMaxDsmlTag = 4096;
DsmlTag dsml_tag_at(std::string_view marked);

// Thread-compatible.
class MarkerReader {
 public:
  // `tokens`: the markers (of text/chat_markers.h) that are tokens of the vocabulary.
  MarkerReader(Encoding encoding, const std::vector<std::string_view>& tokens);

  // Appends text of ordinary tokens to the marked text `out`. The text may be cut anywhere. Bytes
  // that are not UTF-8 become U+FFFD; the beginning of a character or of a marker is held back.
  void text(std::string_view text, std::string& out);
  // Appends a marker that was generated as its token.
  void marker(std::string_view marker, std::string& out);
  // Call this when no more text will come. What was held back is appended as text (`keep`) or
  // dropped.
  void finish(bool keep, std::string& out);

  // The end of sentence has been read: all that follows is ignored.
  bool ended() const { return ended_; }
  // Bytes held back.
  size_t held() const { return held_.size(); }
  // Whether the bytes held back are more than "<": part of a marker or of a character.
  bool holds_part() const;

 private:
  struct Spelled {
    std::string_view text;
    size_t before;  // bytes of `text` in front of the marker, which stay text
    char letter;    // kEndLetter: the end of sentence
  };
  std::vector<Spelled> spelled_;  // markers that are searched in the text
  std::string held_;
  bool ended_ = false;
};

}  // namespace fathom
