// StopText finds the texts that end an answer, while the answer arrives.
//
// The first stop text to become complete ends the answer; of several that become complete with the
// same byte, the longest. So the result does not depend on how the text is cut.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

// Thread-compatible. A byte costs about one comparison per stop text.
class StopText {
 public:
  // Empty stop texts are never found.
  explicit StopText(std::vector<std::string> stops);

  // Reads the next text. Appends to `out` what cannot belong to a stop text any more. Returns true
  // once a stop text has been found; that text and all that follows it are dropped.
  bool feed(std::string_view text, std::string& out);

  // Call when the text ends or is interrupted by something else. Appends what was held back to
  // `out`; a stop text does not continue across this point.
  void flush(std::string& out);

  bool found() const { return found_ >= 0; }
  // Returns the stop text that was found; empty if none was.
  std::string_view found_text() const;
  // Bytes held back because they may begin a stop text.
  size_t held() const { return held_.size(); }
  // Bytes of the fed text from the beginning of the found stop text on.
  size_t dropped() const { return dropped_; }

 private:
  // A stop text with the lengths to fall back to on a mismatch (Knuth, Morris and Pratt), and how
  // many of its bytes the text so far ends in.
  struct Needle {
    std::string text;
    std::vector<size_t> fallback;
    size_t matched = 0;
  };
  static bool advance(Needle& needle, char c);

  std::vector<Needle> needles_;
  std::string held_;
  int found_ = -1;
  size_t dropped_ = 0;
};

}  // namespace fathom
