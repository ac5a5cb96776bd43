#include "text/grammar/grammar_number.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <tuple>

#include "text/grammar/grammar_json.h"

namespace fathom {
namespace {

constexpr int kMaxDigits = JsonGrammar::kMaxDigits;
using Bound = NumberForm::Bound;

int compare(const Decimal& a, const Decimal& b) {  // of the absolute values
  if (a.whole.size() != b.whole.size()) return a.whole.size() < b.whole.size() ? -1 : 1;
  const int whole = a.whole.compare(b.whole);
  // Fractions have no trailing zeros, so they compare as text does.
  return whole != 0 ? whole : a.fraction.compare(b.fraction);
}

// The numbers from `low` to `high`, both at least 0, digit by digit. As long as its digits equal
// those of a bound, a number is tied to that bound. A digit above the lower bound's or below the
// upper bound's frees it.
class Magnitudes {
 public:
  Magnitudes(Grammar& grammar, const NumberForm& form, Bound low, Bound high, int32_t next)
      : g_(grammar), form_(form), low_(std::move(low)), high_(std::move(high)), next_(next) {
    max_fraction_ = form.whole ? 0 : form.max_fraction < 0 ? kMaxDigits : form.max_fraction;
  }

  int32_t make() {
    std::vector<int32_t> lengths;
    const size_t first = low_.value.whole.size(), last = high_.value.whole.size();
    for (size_t n = first; n <= last; ++n) {
      const int32_t node = whole(static_cast<int>(n), 0, n == first, n == last, 0);
      lengths.push_back(node);
    }
    return lengths.empty() ? g_.reserve() : g_.split(lengths);
  }

 private:
  // `length` digits in all, `at` of them written; `rest`: the digits so far modulo multiple_of.
  int32_t whole(int length, int at, bool tied_low, bool tied_high, uint32_t rest) {
    if (at == length) return fraction(0, tied_low, tied_high, rest);
    const bool free = !tied_low && !tied_high && at > 0;
    const std::pair<int, uint32_t> key = {length - at, rest};
    if (free) {
      if (const auto made = free_.find(key); made != free_.end()) return made->second;
    }
    std::vector<Grammar::Edge> edges;
    for (char d = at == 0 && length > 1 ? '1' : '0'; d <= '9'; ++d) {
      if (tied_low && d < low_.value.whole[at]) continue;
      if (tied_high && d > high_.value.whole[at]) continue;
      const uint32_t left = (rest * 10 + static_cast<uint32_t>(d - '0')) % form_.multiple_of;
      edges.push_back(Grammar::edge(d, whole(length, at + 1, tied_low && d == low_.value.whole[at],
                                             tied_high && d == high_.value.whole[at], left)));
    }
    const int32_t node = g_.bytes(edges);
    if (free) free_.emplace(key, node);
    return node;
  }

  static char digit(const Decimal& d, int at) {
    return at < static_cast<int>(d.fraction.size()) ? d.fraction[at] : '0';
  }

  // `at` digits after the point are written; with 0 the point is not written either.
  int32_t fraction(int at, bool tied_low, bool tied_high, uint32_t rest) {
    if (rest != 0) return g_.reserve();  // no multiple: there is no way on
    const auto key = std::tuple(at, tied_low, tied_high);
    if (const auto made = fractions_.find(key); made != fractions_.end()) return made->second;
    std::vector<int32_t> ways;
    // Still tied with all its digits written, the number is the bound itself.
    const auto is_bound = [&](const Bound& b) {
      return at >= static_cast<int>(b.value.fraction.size());
    };
    const bool too_low = tied_low && (!is_bound(low_) || low_.excluded);
    const bool too_high = tied_high && is_bound(high_) && high_.excluded;
    if (!too_low && !too_high) ways.push_back(next_);
    if (at < max_fraction_) {
      std::vector<Grammar::Edge> edges;
      for (char d = '0'; d <= '9'; ++d) {
        const char l = digit(low_.value, at), h = digit(high_.value, at);
        if ((tied_low && d < l) || (tied_high && d > h)) continue;
        edges.push_back(
            Grammar::edge(d, fraction(at + 1, tied_low && d == l, tied_high && d == h, 0)));
      }
      const int32_t digits = g_.bytes(edges);
      ways.push_back(at == 0 ? g_.byte('.', digits) : digits);
    }
    const int32_t node = ways.empty() ? g_.reserve() : g_.split(ways);
    fractions_.emplace(key, node);
    return node;
  }

  Grammar& g_;
  const NumberForm& form_;
  Bound low_, high_;
  int32_t next_;
  int max_fraction_;
  std::map<std::pair<int, uint32_t>, int32_t> free_;
  std::map<std::tuple<int, bool, bool>, int32_t> fractions_;
};

}  // namespace

std::optional<Decimal> decimal_of(std::string_view text) {
  Decimal d;
  if (text.starts_with('-')) {
    d.negative = true;
    text.remove_prefix(1);
  }
  int exponent = 0;
  if (const size_t e = text.find_first_of("eE"); e != text.npos) {
    std::string_view digits = text.substr(e + 1);
    if (digits.starts_with('+')) digits.remove_prefix(1);
    const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), exponent);
    if (read.ec != std::errc() || exponent > 1000 || exponent < -1000) return std::nullopt;
    text = text.substr(0, e);
  }
  const size_t point = std::min(text.find('.'), text.size());
  std::string digits(text.substr(0, point));
  if (point < text.size()) digits += text.substr(point + 1);
  int place = static_cast<int>(point) + exponent;  // of the point in `digits`
  if (place < 0) digits.insert(0, static_cast<size_t>(-place), '0');
  place = std::max(place, 0);
  if (static_cast<size_t>(place) > digits.size()) digits.resize(place, '0');
  d.whole = digits.substr(0, place);
  d.fraction = digits.substr(place);
  d.whole.erase(0, std::min(d.whole.find_first_not_of('0'), d.whole.size()));
  d.fraction.erase(d.fraction.find_last_not_of('0') + 1);
  if (d.whole.empty()) d.whole = "0";
  if (d.is_zero()) d.negative = false;
  if (d.whole.size() > kMaxDigits || d.fraction.size() > kMaxDigits) return std::nullopt;
  return d;
}

int32_t number_between(Grammar& grammar, const NumberForm& form, int32_t next) {
  const Bound zero = {Decimal{}, false};
  const Bound largest = {Decimal{false, std::string(kMaxDigits, '9'), ""}, false};
  std::vector<int32_t> signs;
  const auto add = [&](bool negative, const Bound& low, const Bound& high) {
    const int order = compare(low.value, high.value);
    if (order > 0 || (order == 0 && (low.excluded || high.excluded))) return;
    const int32_t node = Magnitudes(grammar, form, low, high, next).make();
    signs.push_back(negative ? grammar.byte('-', node) : node);
  };
  const bool low_negative = !form.low || form.low->value.negative;
  const bool high_negative = form.high && form.high->value.negative;
  if (!high_negative) add(false, low_negative ? zero : *form.low, form.high ? *form.high : largest);
  // Below zero the absolute values run the other way; -0 is left out.
  if (low_negative) {
    const Bound above_zero = {Decimal{}, true};
    add(true, high_negative ? *form.high : above_zero, form.low ? *form.low : largest);
  }
  return signs.empty() ? grammar.reserve() : grammar.split(signs);
}

}  // namespace fathom
