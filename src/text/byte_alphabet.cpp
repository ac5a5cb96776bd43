#include "text/byte_alphabet.h"

#include "text/utf8.h"

namespace fathom {
namespace {

constexpr bool stands_for_itself(uint32_t byte) {
  // 0xAD is the soft hyphen, which does not print.
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
}

struct Alphabet {
  static constexpr uint32_t kCodes = 0x144;  // one past the largest character in use
  std::array<std::string, 256> spelling;
  std::array<int16_t, kCodes> byte_of_code;

  Alphabet() {
    byte_of_code.fill(-1);
    uint32_t next_code = 0x100;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const uint32_t code = stands_for_itself(byte) ? byte : next_code++;
      append_utf8(spelling[byte], code);
      byte_of_code[code] = static_cast<int16_t>(byte);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet instance;
  return instance;
}

}  // namespace

const std::array<std::string, 256>& byte_spellings() { return alphabet().spelling; }

std::optional<std::string> bytes_of_spelling(std::string_view spelling) {
  const auto& byte_of_code = alphabet().byte_of_code;
  std::string bytes;
  bytes.reserve(spelling.size());
  for (size_t i = 0; i < spelling.size();) {
    const Utf8Step step = utf8_step(spelling, i);
    if (step.kind != Utf8Step::Kind::valid || step.code >= byte_of_code.size() ||
        byte_of_code[step.code] < 0) {
      return std::nullopt;
    }
    bytes += static_cast<char>(byte_of_code[step.code]);
    i += step.length;
  }
  return bytes;
}

std::string spelling_of_bytes(std::string_view bytes) {
  std::string spelling;
  spelling.reserve(bytes.size() * 2);
  for (const char c : bytes) spelling += byte_spellings()[static_cast<uint8_t>(c)];
  return spelling;
}

}  // namespace fathom
