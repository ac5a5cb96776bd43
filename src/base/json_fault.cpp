#include "base/json_fault.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "base/file_kind.h"

namespace fathom {
namespace {

constexpr std::string_view kSpace = " \t\r\n";
constexpr size_t kShown = 24;  // bytes of the text in a message

// The string, number, word or mark of `text` that the byte at `at` belongs to.
std::string_view token_at(std::string_view text, size_t at) {
  constexpr std::string_view kApart = " \t\r\n[]{},:\"";
  size_t begin = 0, end = 0;
  while (end <= at && end < text.size()) {
    begin = end++;
    if (text[begin] == '"') {
      while (end < text.size() && text[end] != '"') end += text[end] == '\\' ? 2 : 1;
      end = std::min(end + 1, text.size());
    } else if (kApart.find(text[begin]) == kApart.npos) {
      end = std::min(text.find_first_of(kApart, begin), text.size());
    }
  }
  return text.substr(begin, end - begin);
}

// A part of the text that is safe in any message.
std::string shown(std::string_view token) {
  std::string out;
  for (const char c : token.substr(0, kShown)) out += c >= ' ' && c <= '~' ? c : '?';
  return token.size() > kShown ? out + "..." : out;
}

// Follows the text to the place where it ends being JSON.
class FaultSax final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit FaultSax(std::string_view text) : text_(text) {}

  std::string fault = "it is too large";  // what the library refuses besides wrong text

  bool null() override { return value(); }
  bool boolean(bool) override { return value(); }
  bool number_integer(int64_t) override { return value(); }
  bool number_unsigned(uint64_t) override { return value(); }
  bool number_float(double, const std::string&) override { return value(); }
  bool string(std::string&) override { return value(); }
  bool binary(nlohmann::json::binary_t&) override { return value(); }
  bool key(std::string&) override { return true; }
  bool start_object(size_t) override { return begin(); }
  bool start_array(size_t) override { return begin(); }
  bool end_object() override { return end(); }
  bool end_array() override { return end(); }

  bool parse_error(size_t read, const std::string&, const nlohmann::detail::exception& e) override {
    if (read > text_.size()) {
      fault = fmt::format("it ends too early, at byte {}", text_.size());
      return false;
    }
    size_t at = read > 0 ? read - 1 : 0;
    std::string_view token = token_at(text_, at);
    // A word that is none has been read with the space behind it.
    if (const size_t last = text_.find_last_not_of(kSpace, at);
        token.find_first_not_of(kSpace) == token.npos && last != text_.npos)
      token = token_at(text_, at = last);
    const auto begin = static_cast<size_t>(token.data() - text_.data());
    if (dynamic_cast<const nlohmann::detail::out_of_range*>(&e))
      fault = fmt::format("at byte {}: the number {} is out of range", begin, shown(token));
    else if (token.starts_with('"') && !nlohmann::json::accept(token))
      fault = fmt::format(
          "at byte {}: in the string {}: a control character, an escape that is "
          "none, half of a surrogate pair or broken UTF-8",
          at, shown(token));
    else
      fault = fmt::format("at byte {}: {} {}", begin, shown(token),
                          whole_ ? "follows after its end" : "is not expected there");
    return false;
  }

 private:
  bool value() {
    whole_ = depth_ == 0;
    return true;
  }
  bool begin() {
    ++depth_;
    return true;
  }
  bool end() {
    --depth_;
    return value();
  }

  std::string_view text_;
  size_t depth_ = 0;
  bool whole_ = false;  // a value has ended that lies in no other
};

}  // namespace

void fail_json(std::string_view text, std::string_view where) {
  if (const std::string kind = unexpected_file_kind(text); !kind.empty())
    fail("{}: not valid JSON: it is {}", where, kind);
  FaultSax sax(text);
  nlohmann::json::sax_parse(text, &sax);
  fail("{}: not valid JSON: {}", where, sax.fault);
}

}  // namespace fathom
