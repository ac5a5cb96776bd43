#include "text/unicode_shadow.h"

#include <algorithm>
#include <bitset>
#include <cstdint>

#include "base/check.h"
#include "text/utf8.h"

namespace fathom {
namespace {

enum class Category : uint8_t { letter, mark, number, punctuation, symbol, format };

struct Range {
  uint32_t first, last;
  Category category;
};

// Where the categories L, M, N, P, S or white space of Unicode 16 differ from PCRE2 10.42's.
// Neighbours of one category are joined across characters on which both agree.
constexpr Range kRanges[] = {
    {0x897, 0x897, Category::mark},
    {0xCF3, 0xCF3, Category::mark},
    {0xECE, 0xECE, Category::mark},
    {0x180E, 0x180E, Category::format},
    {0x1B4E, 0x1B4F, Category::punctuation},
    {0x1B7F, 0x1B7F, Category::punctuation},
    {0x1C89, 0x1C8A, Category::letter},
    {0x2427, 0x2429, Category::symbol},
    {0x2FFC, 0x2FFF, Category::symbol},
    {0x31E4, 0x31E5, Category::symbol},
    {0x31EF, 0x31EF, Category::symbol},
    {0xA7CB, 0xA7CD, Category::letter},
    {0xA7DA, 0xA7DC, Category::letter},
    {0x105C0, 0x105F3, Category::letter},
    {0x10D40, 0x10D49, Category::number},
    {0x10D4A, 0x10D65, Category::letter},
    {0x10D69, 0x10D6D, Category::mark},
    {0x10D6E, 0x10D6E, Category::punctuation},
    {0x10D6F, 0x10D85, Category::letter},
    {0x10D8E, 0x10D8F, Category::symbol},
    {0x10EC2, 0x10EC4, Category::letter},
    {0x10EFC, 0x10EFF, Category::mark},
    {0x1123F, 0x11240, Category::letter},
    {0x11241, 0x11241, Category::mark},
    {0x11380, 0x11389, Category::letter},
    {0x1138B, 0x1138B, Category::letter},
    {0x1138E, 0x1138E, Category::letter},
    {0x11390, 0x113B5, Category::letter},
    {0x113B7, 0x113B7, Category::letter},
    {0x113B8, 0x113C0, Category::mark},
    {0x113C2, 0x113C2, Category::mark},
    {0x113C5, 0x113C5, Category::mark},
    {0x113C7, 0x113CA, Category::mark},
    {0x113CC, 0x113D0, Category::mark},
    {0x113D1, 0x113D1, Category::letter},
    {0x113D2, 0x113D2, Category::mark},
    {0x113D3, 0x113D3, Category::letter},
    {0x113D4, 0x113D5, Category::punctuation},
    {0x113D7, 0x113D8, Category::punctuation},
    {0x113E1, 0x113E2, Category::mark},
    {0x116D0, 0x116E3, Category::number},
    {0x11B00, 0x11B09, Category::punctuation},
    {0x11BC0, 0x11BE0, Category::letter},
    {0x11BE1, 0x11BE1, Category::punctuation},
    {0x11BF0, 0x11BF9, Category::number},
    {0x11F00, 0x11F01, Category::mark},
    {0x11F02, 0x11F02, Category::letter},
    {0x11F03, 0x11F03, Category::mark},
    {0x11F04, 0x11F10, Category::letter},
    {0x11F12, 0x11F33, Category::letter},
    {0x11F34, 0x11F3A, Category::mark},
    {0x11F3E, 0x11F42, Category::mark},
    {0x11F43, 0x11F4F, Category::punctuation},
    {0x11F50, 0x11F59, Category::number},
    {0x11F5A, 0x11F5A, Category::mark},
    {0x1342F, 0x1342F, Category::letter},
    {0x13440, 0x13440, Category::mark},
    {0x13441, 0x13446, Category::letter},
    {0x13447, 0x13455, Category::mark},
    {0x13460, 0x143FA, Category::letter},
    {0x16100, 0x1611D, Category::letter},
    {0x1611E, 0x1612F, Category::mark},
    {0x16130, 0x16139, Category::number},
    {0x16D40, 0x16D6C, Category::letter},
    {0x16D6D, 0x16D6F, Category::punctuation},
    {0x16D70, 0x16D79, Category::number},
    {0x18CFF, 0x18CFF, Category::letter},
    {0x1B132, 0x1B132, Category::letter},
    {0x1B155, 0x1B155, Category::letter},
    {0x1CC00, 0x1CCEF, Category::symbol},
    {0x1CCF0, 0x1CCF9, Category::number},
    {0x1CD00, 0x1CEB3, Category::symbol},
    {0x1D2C0, 0x1D2D3, Category::number},
    {0x1DF25, 0x1DF2A, Category::letter},
    {0x1E030, 0x1E06D, Category::letter},
    {0x1E08F, 0x1E08F, Category::mark},
    {0x1E4D0, 0x1E4EB, Category::letter},
    {0x1E4EC, 0x1E4EF, Category::mark},
    {0x1E4F0, 0x1E4F9, Category::number},
    {0x1E5D0, 0x1E5ED, Category::letter},
    {0x1E5EE, 0x1E5EF, Category::mark},
    {0x1E5F0, 0x1E5F0, Category::letter},
    {0x1E5F1, 0x1E5FA, Category::number},
    {0x1E5FF, 0x1E5FF, Category::punctuation},
    {0x1F6DC, 0x1F6DC, Category::symbol},
    {0x1F774, 0x1F776, Category::symbol},
    {0x1F77B, 0x1F7D9, Category::symbol},
    {0x1F8B2, 0x1F8BB, Category::symbol},
    {0x1F8C0, 0x1F8C1, Category::symbol},
    {0x1FA75, 0x1FA77, Category::symbol},
    {0x1FA87, 0x1FA89, Category::symbol},
    {0x1FA8F, 0x1FAC6, Category::symbol},
    {0x1FACE, 0x1FADC, Category::symbol},
    {0x1FADF, 0x1FAE9, Category::symbol},
    {0x1FAF7, 0x1FAF8, Category::symbol},
    {0x1FBCB, 0x1FBEF, Category::symbol},
    {0x2B739, 0x2B739, Category::letter},
    {0x2EBF0, 0x2EE5D, Category::letter},
    {0x31350, 0x323AF, Category::letter},
};

// One old character per category for three and four bytes of UTF-8 (none of two bytes differs).
constexpr std::string_view stand_in(Category category, bool four_bytes) {
  switch (category) {
    case Category::letter:
      return four_bytes ? "\U00010000" : "\u0904";
    case Category::mark:
      return four_bytes ? "\U0001D165" : "\u0900";
    case Category::number:
      return four_bytes ? "\U0001D7CE" : "\u0966";
    case Category::punctuation:
      return four_bytes ? "\U00010100" : "\u0964";
    case Category::symbol:
      return four_bytes ? "\U0001F600" : "\u2100";
    case Category::format:
      return four_bytes ? "\U000E0001" : "\u2060";
  }
  return {};
}

constexpr int kPageBits = 8;
using Pages = std::bitset<(0x110000 >> kPageBits)>;

// The 256-character pages that hold a range: one bit decides for nearly every character.
Pages make_pages() {
  Pages pages;
  for (const Range& r : kRanges) {
    for (uint32_t page = r.first >> kPageBits; page <= r.last >> kPageBits; ++page) pages.set(page);
  }
  return pages;
}

const Range* find_range(uint32_t code) {
  static const Pages pages = make_pages();
  if (!pages.test(code >> kPageBits)) return nullptr;
  const Range* r = std::lower_bound(std::begin(kRanges), std::end(kRanges), code,
                                    [](const Range& range, uint32_t c) { return range.last < c; });
  return r != std::end(kRanges) && r->first <= code ? r : nullptr;
}

}  // namespace

bool make_unicode_shadow(std::string_view text, std::string& shadow) {
  bool changed = false;
  for (size_t i = 0; i < text.size();) {
    // Everything below U+0800 is the same in both versions, and begins with a byte below E0.
    if (static_cast<uint8_t>(text[i]) < 0xE0) {
      ++i;
      continue;
    }
    const Utf8Step step = utf8_step(text, i);
    FATHOM_CHECK(step.kind == Utf8Step::Kind::valid, "invalid UTF-8 at byte {}", i);
    if (const Range* r = find_range(step.code)) {
      if (!changed) shadow.assign(text);
      changed = true;
      const std::string_view other = stand_in(r->category, step.length == 4);
      shadow.replace(i, step.length, other);
    }
    i += step.length;
  }
  return changed;
}

}  // namespace fathom
