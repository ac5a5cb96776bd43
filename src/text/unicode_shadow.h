// Hugging Face splits text by the categories of Unicode 16; Debian 12's PCRE2 knows Unicode 14.
// Some 10,300 rare characters differ (all of them unassigned in 14, and U+180E, which PCRE2 calls
// white space). For text that holds one of them, the regexes run over a shadow: the same text with
// each such character replaced by an old one of the right category and the same length in UTF-8, so
// that every offset found in the shadow holds in the text.
//
// A pattern that names a replacement character literally would match it where the text has another
// one. No pattern of DeepSeek's tokenizers does.
#pragma once

#include <string>
#include <string_view>

namespace fathom {

// Fills `shadow` and returns true if the text (valid UTF-8) holds a character to replace.
bool make_unicode_shadow(std::string_view text, std::string& shadow);

}  // namespace fathom
