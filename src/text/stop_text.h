// Texts that end an answer, found in it as it arrives.
//
// The first stop text to become complete ends the answer; of several that become complete with the
// same byte, the longest. So what is found never depends on how the text was cut.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

// Thread-compatible. One byte costs one comparison a stop text, whatever the texts are.
class StopText {
 public:
  // Empty stop texts are never found.
  explicit StopText(std::vector<std::string> stops);

  // The next text. What cannot belong to a stop text any more is appended to `out`. True once a
  // stop text has been found: it and what follows it are dropped.
  bool feed(std::string_view text, std::string& out);

  // The text ends here, or something else comes between: what was held back is appended to `out`,
  // and no stop text goes on behind it.
  void flush(std::string& out);

  bool found() const { return found_ >= 0; }
  // The stop text that was found; empty if none was.
  std::string_view found_text() const;
  // Bytes held back because they may begin a stop text.
  size_t held() const { return held_.size(); }
  // Bytes of the fed text that come after the beginning of the stop text found.
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
