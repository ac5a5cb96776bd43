// UTF-8: validation with the place of the error, replacement by U+FFFD, and the pieces the
// tokenizer and the stream decoder are made of.
//
// Replacement follows Unicode's "maximal subpart" practice (one U+FFFD for every longest prefix of
// a character that ends in nonsense), which is what Hugging Face's decode does as well.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace fathom {

inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

struct Utf8Step {
  enum class Kind : uint8_t {
    valid,       // a whole character
    invalid,     // `length` bytes that cannot become a character
    incomplete,  // the text ends inside a character that is valid so far
  };
  Kind kind;
  uint8_t length;
  uint32_t code;  // code point; meaningful for `valid` only
};

// Reads the character that starts at `offset`, which must be inside the text.
Utf8Step utf8_step(std::string_view text, size_t offset);

// Offset of the first byte that is not part of a whole, valid character.
std::optional<size_t> first_invalid_utf8(std::string_view text);

// Throws Error "{what}: invalid UTF-8 at byte N (0xHH)" unless the text is valid.
void require_utf8(std::string_view text, std::string_view what);

// The text with everything invalid (a cut-off end included) replaced by U+FFFD.
std::string replace_invalid_utf8(std::string_view text);

// Number of bytes at the end that begin a character whose rest is still missing: 0 to 3.
size_t incomplete_utf8_tail(std::string_view text);

void append_utf8(std::string& out, uint32_t code);

// Unicode's White_Space property, which the strip flags of added tokens refer to.
bool is_white_space(uint32_t code);

}  // namespace fathom
