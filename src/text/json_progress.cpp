#include "text/json_progress.h"

#include <cmath>
#include <cstdlib>

namespace fathom {
namespace {

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

}  // namespace

bool JsonProgress::push(char c) {
  ++read_;
  switch (state_) {
    case State::string:
    case State::key:
      return escape_.empty() ? push_string(c) : push_escape(c);
    case State::literal:
      return push_literal(c);
    default:
      break;
  }
  if (!number_.empty()) {
    if (const auto next = number_step(c)) {
      state_ = *next;
      number_ += c;
      return true;
    }
    if (!number_may_end() || !number_fits()) return false;
    number_.clear();
    --read_;  // the number has ended in front of this byte
    end_value();
    ++read_;
  }
  if (is_space(c)) return true;
  switch (state_) {
    case State::value:
      return push_value(c);
    case State::first_item:
      return c == ']' ? close(false) : push_value(c);
    case State::first_key:
      if (c == '}') return close(true);
      [[fallthrough]];
    case State::next_key:
      state_ = State::key;
      return c == '"';
    case State::colon:
      state_ = State::value;
      return c == ':' && ++levels_.back().members <= kMaxJsonMembers;
    default:
      return push_after(c);
  }
}

bool JsonProgress::complete() const {
  if (!levels_.empty()) return false;
  return state_ == State::after || (!number_.empty() && number_may_end() && number_fits());
}

std::optional<std::string> JsonProgress::closed(std::string_view text) const {
  if (keep_ == 0) return std::nullopt;
  std::string out(text.substr(0, keep_));
  if (keep_in_string_) out += '"';
  // Levels change only where a text may be cut, so the levels now are those that were open there.
  for (auto level = levels_.rbegin(); level != levels_.rend(); ++level)
    out += level->object ? '}' : ']';
  return out;
}

bool JsonProgress::push_value(char c) {
  if (c == '{' || c == '[') return open(c == '{');
  if (c == '"') {
    state_ = State::string;
    keep_ = read_;
    keep_in_string_ = true;
    return true;
  }
  for (const std::string_view literal : {"true", "false", "null"}) {
    if (c != literal[0]) continue;
    literal_left_ = literal.substr(1);
    state_ = State::literal;
    return true;
  }
  if (c != '-' && !is_digit(c)) return false;
  state_ = c == '-' ? State::minus : c == '0' ? State::zero : State::digits;
  number_ = c;
  return true;
}

bool JsonProgress::push_string(char c) {
  if (static_cast<unsigned char>(c) < 0x20) return false;
  if (c == '\\') {
    escape_ = c;
    return true;
  }
  if (c == '"') {
    if (state_ == State::string)
      end_value();
    else
      state_ = State::colon;
    return true;
  }
  if (state_ == State::string) keep_ = read_;
  return true;
}

bool JsonProgress::push_escape(char c) {
  constexpr size_t kUnit = 6;  // of \uXXXX
  escape_ += c;
  const size_t at = (escape_.size() - 1) % kUnit;
  const bool second_half = escape_.size() > kUnit;
  const auto is_half = [&](size_t unit, const char* kind) {
    const char d = escape_[unit + 2], kind_digit = escape_[unit + 3];
    return (d == 'd' || d == 'D') && std::string_view(kind).find(kind_digit) != std::string::npos;
  };
  if (second_half && at == 0) return c == '\\';
  if (second_half && at == 1 && c != 'u') return false;
  if (at == 1 && c != 'u') {
    if (std::string_view("\"\\/bfnrt").find(c) == std::string_view::npos) return false;
  } else if (at == 1) {
    return true;
  } else {
    if (!is_hex(c)) return false;
    if (at + 1 < kUnit) return true;
    const bool low = is_half(second_half ? kUnit : 0, "cdefCDEF");
    if (low != second_half) return false;
    if (!second_half && is_half(0, "89abAB")) return true;
  }
  escape_.clear();
  if (state_ == State::string) keep_ = read_;
  return true;
}

bool JsonProgress::push_literal(char c) {
  if (c != literal_left_[0]) return false;
  literal_left_.remove_prefix(1);
  if (literal_left_.empty()) end_value();
  return true;
}

bool JsonProgress::push_after(char c) {
  if (levels_.empty()) return false;
  const bool object = levels_.back().object;
  if (c == ',') {
    state_ = object ? State::next_key : State::value;
    return ++values_ <= kMaxJsonValues;
  }
  return (c == '}' || c == ']') && close(c == '}');
}

bool JsonProgress::open(bool object) {
  if (static_cast<int>(levels_.size()) + outer_depth_ >= kMaxJsonDepth) return false;
  levels_.push_back({object});
  state_ = object ? State::first_key : State::first_item;
  keep_ = read_;
  keep_in_string_ = false;
  return ++values_ <= kMaxJsonValues;
}

bool JsonProgress::close(bool object) {
  if (levels_.back().object != object) return false;
  levels_.pop_back();
  end_value();
  return true;
}

// What `c` makes of the number; nothing if it is not part of it.
std::optional<JsonProgress::State> JsonProgress::number_step(char c) const {
  const bool digit = is_digit(c), exponent = c == 'e' || c == 'E';
  switch (state_) {
    case State::minus:
      if (digit) return c == '0' ? State::zero : State::digits;
      break;
    case State::zero:
    case State::digits:
      if (digit && state_ == State::digits) return State::digits;
      if (c == '.') return State::point;
      if (exponent) return State::exponent;
      break;
    case State::point:
    case State::fraction:
      if (digit) return State::fraction;
      if (exponent && state_ == State::fraction) return State::exponent;
      break;
    case State::exponent:
      if (c == '+' || c == '-') return State::exponent_sign;
      [[fallthrough]];
    case State::exponent_sign:
    case State::exponent_digits:
      if (digit) return State::exponent_digits;
      break;
    default:
      break;
  }
  return std::nullopt;
}

bool JsonProgress::number_may_end() const {
  return state_ == State::zero || state_ == State::digits || state_ == State::fraction ||
         state_ == State::exponent_digits;
}

// JSON readers refuse a number beyond a double's range.
bool JsonProgress::number_fits() const {
  return std::isfinite(std::strtod(number_.c_str(), nullptr));
}

void JsonProgress::end_value() {
  state_ = State::after;
  keep_ = read_;
  keep_in_string_ = false;
}

std::optional<std::string> closed_json_object(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == text.npos) return "{}";
  if (text[begin] != '{') return std::nullopt;
  JsonProgress json;
  for (const char c : text)
    if (!json.push(c)) return std::nullopt;
  return json.complete() ? std::string(text) : json.closed(text);
}

}  // namespace fathom
