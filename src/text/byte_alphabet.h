// GPT-2's byte alphabet: tokenizer.json spells a token's bytes as printable characters. Bytes that
// print in Latin-1 stand for themselves, the other 68 for U+0100, U+0101, ... in order.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace fathom {

// The character (as UTF-8) that spells a byte.
const std::array<std::string, 256>& byte_spellings();

// The bytes that `spelling` (valid UTF-8) stands for; nothing if one of its characters is not in
// the alphabet.
std::optional<std::string> bytes_of_spelling(std::string_view spelling);

std::string spelling_of_bytes(std::string_view bytes);

}  // namespace fathom
