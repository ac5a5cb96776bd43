#include "text/utf8.h"

#include <cstring>

#include "base/error.h"

namespace fathom {
namespace {

// Offset of the first byte >= 0x80 at or after `offset`: most text is ASCII, eight bytes at a time.
size_t skip_ascii(std::string_view text, size_t offset) {
  constexpr uint64_t kHighBits = 0x8080808080808080u;
  while (offset + 8 <= text.size()) {
    uint64_t word;
    std::memcpy(&word, text.data() + offset, 8);
    if (word & kHighBits) break;
    offset += 8;
  }
  while (offset < text.size() && static_cast<uint8_t>(text[offset]) < 0x80) ++offset;
  return offset;
}

}  // namespace

Utf8Step utf8_step(std::string_view text, size_t offset) {
  using Kind = Utf8Step::Kind;
  const auto lead = static_cast<uint8_t>(text[offset]);
  if (lead < 0x80) return {Kind::valid, 1, lead};
  // The second byte's range is what excludes overlong forms, surrogates and code points past
  // U+10FFFF; all later bytes are 80..BF.
  int needed;
  uint8_t low = 0x80, high = 0xBF;
  uint32_t code;
  if (lead >= 0xC2 && lead <= 0xDF) {
    needed = 1;
    code = lead & 0x1Fu;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    needed = 2;
    code = lead & 0x0Fu;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    needed = 3;
    code = lead & 0x07u;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {Kind::invalid, 1, 0};
  }
  for (int i = 1; i <= needed; ++i) {
    if (offset + i >= text.size()) return {Kind::incomplete, static_cast<uint8_t>(i), 0};
    const auto byte = static_cast<uint8_t>(text[offset + i]);
    if (byte < low || byte > high) return {Kind::invalid, static_cast<uint8_t>(i), 0};
    code = code << 6 | (byte & 0x3Fu);
    low = 0x80;
    high = 0xBF;
  }
  return {Kind::valid, static_cast<uint8_t>(needed + 1), code};
}

std::optional<size_t> first_invalid_utf8(std::string_view text) {
  size_t offset = skip_ascii(text, 0);
  while (offset < text.size()) {
    const Utf8Step step = utf8_step(text, offset);
    if (step.kind != Utf8Step::Kind::valid) return offset;
    offset = skip_ascii(text, offset + step.length);
  }
  return std::nullopt;
}

void require_utf8(std::string_view text, std::string_view what) {
  if (const auto bad = first_invalid_utf8(text)) {
    fail("{}: invalid UTF-8 at byte {} (0x{:02X})", what, *bad, static_cast<uint8_t>(text[*bad]));
  }
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  size_t offset = 0;
  while (offset < text.size()) {
    const size_t plain_end = skip_ascii(text, offset);
    out.append(text, offset, plain_end - offset);
    offset = plain_end;
    if (offset == text.size()) break;
    const Utf8Step step = utf8_step(text, offset);
    out.append(step.kind == Utf8Step::Kind::valid ? text.substr(offset, step.length)
                                                  : kReplacement);
    offset += step.length;
  }
  return out;
}

size_t incomplete_utf8_tail(std::string_view text) {
  // A character's lead byte is at most three bytes before a cut inside it.
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const auto byte = static_cast<uint8_t>(text[text.size() - back]);
    if ((byte & 0xC0) == 0x80) continue;
    const Utf8Step step = utf8_step(text, text.size() - back);
    return step.kind == Utf8Step::Kind::incomplete ? back : 0;
  }
  return 0;
}

void append_utf8(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | code >> 6);
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | code >> 12);
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | code >> 18);
    out += static_cast<char>(0x80 | (code >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

bool is_white_space(uint32_t code) {
  return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
         code == 0x202F || code == 0x205F || code == 0x3000;
}

}  // namespace fathom
