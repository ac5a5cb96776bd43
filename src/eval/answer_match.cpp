#include "eval/answer_match.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <charconv>

#include "base/error.h"

namespace fathom::eval {
namespace {

// Steps of backtracking after which a match is given up.
constexpr uint32_t kMatchLimit = 10'000'000;

bool digit(char c) { return c >= '0' && c <= '9'; }

// Reads the number that begins at `at` and moves `at` past it; nothing if there is none.
std::optional<double> read_number(std::string_view text, size_t& at) {
  size_t i = at;
  std::string plain;
  if (i < text.size() && (text[i] == '-' || text[i] == '+')) {
    if (text[i] == '-') plain = "-";
    ++i;
  } else if (text.substr(i).starts_with("\u2212")) {  // the minus sign of typography
    plain = "-";
    i += 3;
  }
  if (i < text.size() && text[i] == '$') ++i;
  const size_t digits = plain.size();
  while (i < text.size() && digit(text[i])) {
    plain += text[i++];
    // A comma is part of the number if exactly three digits follow it.
    const bool group = i + 3 < text.size() && text[i] == ',' && digit(text[i + 1]) &&
                       digit(text[i + 2]) && digit(text[i + 3]) &&
                       (i + 4 == text.size() || !digit(text[i + 4]));
    if (group) ++i;
  }
  if (i + 1 < text.size() && text[i] == '.' && digit(text[i + 1])) {
    if (plain.size() == digits) plain += '0';
    plain += '.';
    for (++i; i < text.size() && digit(text[i]); ++i) plain += text[i];
  }
  if (plain.size() == digits) return std::nullopt;
  if (i < text.size() && (text[i] == 'e' || text[i] == 'E')) {
    size_t k = i + 1;
    std::string exponent = "e";
    if (k < text.size() && (text[k] == '-' || text[k] == '+')) {
      if (text[k] == '-') exponent += '-';
      ++k;
    }
    if (k < text.size() && digit(text[k])) {
      for (; k < text.size() && digit(text[k]); ++k) exponent += text[k];
      plain += exponent;
      i = k;
    }
  }
  double value = 0;
  const auto [end, error] = std::from_chars(plain.data(), plain.data() + plain.size(), value);
  if (error != std::errc()) return std::nullopt;
  at = i;
  return value;
}

}  // namespace

struct Pattern::Code {
  pcre2_code* code = nullptr;
  pcre2_match_context* context = nullptr;
  pcre2_match_data* data = nullptr;

  ~Code() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_code_free(code);
  }
};

Pattern::Pattern(const std::string& pattern) : code_(std::make_unique<Code>()) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                              PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
  if (!code_->code) {
    PCRE2_UCHAR message[256] = {};
    pcre2_get_error_message(error, message, sizeof(message));
    fail("the regular expression '{}' does not compile: {} at byte {}", pattern,
         reinterpret_cast<const char*>(message), offset);
  }
  code_->context = pcre2_match_context_create(nullptr);
  code_->data = pcre2_match_data_create(1, nullptr);
  if (!code_->context || !code_->data) fail("regular expressions: out of memory");
  pcre2_set_match_limit(code_->context, kMatchLimit);
}
Pattern::~Pattern() = default;
Pattern::Pattern(Pattern&&) noexcept = default;
Pattern& Pattern::operator=(Pattern&&) noexcept = default;

bool Pattern::found_in(std::string_view text) const {
  return pcre2_match(code_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0, 0,
                     code_->data, code_->context) >= 0;
}

std::optional<double> number_behind(std::string_view text, std::string_view marker) {
  if (!marker.empty()) {
    const size_t at = text.rfind(marker);
    if (at == text.npos) return std::nullopt;
    text.remove_prefix(at + marker.size());
  }
  std::optional<double> found;
  for (size_t at = 0; at < text.size();) {
    // Digits inside a word belong to a name and are no number. A hyphen between two digits is no
    // sign.
    const char before = at > 0 ? text[at - 1] : ' ';
    const bool inside = digit(before) || (before >= 'a' && before <= 'z') ||
                        (before >= 'A' && before <= 'Z') || before == '_';
    if (inside) {
      ++at;
      continue;
    }
    if (const std::optional<double> number = read_number(text, at)) {
      found = number;
      if (!marker.empty()) return found;
    } else {
      ++at;
    }
  }
  return found;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n\v\f";
  const size_t begin = text.find_first_not_of(kBlanks);
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

}  // namespace fathom::eval
