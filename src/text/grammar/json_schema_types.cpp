// What values of each type a schema allows.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <optional>
#include <tuple>

#include "text/grammar/grammar_number.h"
#include "text/grammar/grammar_regex.h"
#include "text/grammar/json_schema.h"
#include "text/grammar/json_schema_keywords.h"

namespace fathom {

using schema::count_of;
using schema::find;
using schema::refuse;
using schema::refuse_contradiction;

namespace {

struct Attempt {
  std::string_view pattern;
  Lengths lengths;
};

// How a pattern or a format is enforced, the strictest first: with the lengths, where it is a
// format in the form that is small beside lengths, and unless `strict` without them.
std::vector<Attempt> attempts_at(std::string_view pattern, std::string_view short_pattern,
                                 const Lengths& lengths, bool strict) {
  std::vector<Attempt> attempts = {{pattern, lengths}};
  if (!lengths.restrict()) return attempts;
  if (!short_pattern.empty()) attempts.push_back({short_pattern, lengths});
  if (!strict) attempts.push_back({pattern, {}});
  return attempts;
}

}  // namespace

// pattern has precedence over format, since it is stricter. The lengths are enforced with either.
int32_t SchemaGrammar::string(const OrderedJson& schema, const std::string& where,
                              Spelling spelling, int32_t next) {
  const auto min = count_of(schema, "minLength", where), max = count_of(schema, "maxLength", where);
  const Lengths lengths = {min.value_or(0), max.value_or(Grammar::kUnbounded)};
  if (lengths.min > lengths.max)
    refuse_contradiction(
        where, fmt::format("minLength {} is more than maxLength {}", lengths.min, lengths.max));
  const int32_t end = spelling == Spelling::json ? g_.byte('"', next) : next;
  const auto whole = [&](int32_t node) {
    return spelling == Spelling::json ? g_.byte('"', node) : node;
  };
  const bool formatted = find(schema, "format") != nullptr;
  for (const bool is_format : {false, true}) {
    const char* const key = is_format ? "format" : "pattern";
    const OrderedJson* rule = find(schema, key);
    if (!rule) continue;
    const std::string place = fmt::format("{}.{}", where, key);
    if (!rule->is_string())
      refuse(place, fmt::format("expected a string, found {}", schema::type_name(*rule)));
    const std::string& text = rule->get_ref<const std::string&>();
    const std::string_view pattern = is_format ? format_pattern(text) : text;
    if (is_format && pattern.empty()) {
      core_.leave_out(place, fmt::format("{} is not supported; accepted are {}",
                                         rule->dump(-1, ' ', true), known_formats()));
      continue;
    }
    const std::vector<Attempt> attempts =
        attempts_at(pattern, is_format ? short_format_pattern(text) : "", lengths, core_.strict());
    // A pattern that cannot be enforced gives way to the format, and the lengths to either.
    const bool gives_way = !core_.strict() || (formatted && !is_format);
    for (const Attempt& attempt : attempts) {
      const Grammar::Mark before = g_.mark();
      try {
        return whole(matching(json_, attempt.pattern, spelling, place, end, attempt.lengths));
      } catch (const GrammarRefusal&) {
        g_.take_back(before);
        if (&attempt == &attempts.back() && !gives_way) throw;
      }
    }
  }
  if (min || max)
    return whole(g_.repeat(json_.any_character_rule(spelling), lengths.min, lengths.max, end));
  return spelling == Spelling::json ? json_.string(next) : json_.raw_text(next);
}

namespace {

constexpr const char* kBounds[] = {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"};

// 10 to the power of JsonGrammar::kMaxDigits: no number in an answer is as large.
bool beyond_all_numbers(const OrderedJson& bound) {
  constexpr double kBeyond = 1e18;
  return std::fabs(bound.get<double>()) >= kBeyond;
}

double double_of(const Decimal& d) {
  return std::stod((d.negative ? "-" : "") + d.whole + "." + d.fraction);
}

// The narrower of two bounds on one side.
void narrow(std::optional<NumberForm::Bound>& bound, const Decimal& value, bool excluded,
            bool lower) {
  if (bound) {
    const double had = double_of(bound->value), has = double_of(value);
    const bool narrower = lower ? has > had : has < had;
    if (!narrower && (has != had || bound->excluded)) return;
  }
  bound = {value, excluded};
}

}  // namespace

void SchemaGrammar::add_bounds(const OrderedJson& schema, const std::string& where,
                               NumberForm& form) const {
  for (const auto& [key, lower, excluded] :
       {std::tuple("minimum", true, false), std::tuple("exclusiveMinimum", true, true),
        std::tuple("maximum", false, false), std::tuple("exclusiveMaximum", false, true)}) {
    const OrderedJson* value = schema::number_of(schema, key, where);
    if (!value) continue;
    // A bound that no number in an answer can reach binds nothing.
    if (beyond_all_numbers(*value) && (value->get<double>() < 0) == lower) continue;
    const auto decimal = decimal_of(value->dump());
    if (!decimal) {
      core_.leave_out(fmt::format("{}.{}", where, key),
                      fmt::format("{} has more than {} digits in front of or behind the point",
                                  value->dump(), JsonGrammar::kMaxDigits));
      continue;
    }
    narrow(lower ? form.low : form.high, *decimal, excluded, lower);
  }
  if (form.low && form.high && double_of(form.low->value) > double_of(form.high->value)) {
    refuse_contradiction(where,
                         fmt::format("no number is from {} to {}", double_of(form.low->value),
                                     double_of(form.high->value)));
  }
}

void SchemaGrammar::add_multiple(const OrderedJson& schema, const std::string& where,
                                 NumberForm& form) const {
  const OrderedJson* value = schema::number_of(schema, "multipleOf", where);
  if (!value) return;
  const auto step = decimal_of(value->dump());
  const bool power = step && step->whole == "0" &&
                     step->fraction.find_first_not_of('0') + 1 == step->fraction.size() &&
                     step->fraction.ends_with('1');
  const bool integer = step && step->is_whole() && !step->is_zero() && step->whole.size() <= 4 &&
                       std::stoul(step->whole) <= NumberForm::kMaxMultiple;
  if (!step || step->negative || !(power || integer)) {
    core_.leave_out(where + ".multipleOf", fmt::format("accepted are 1 to {}, and 0.1, 0.01, ...",
                                                       NumberForm::kMaxMultiple));
    return;
  }
  if (power) form.max_fraction = static_cast<int>(step->fraction.size());
  if (integer) {
    form.whole = true;
    form.multiple_of = static_cast<uint32_t>(std::stoul(step->whole));
  }
}

int32_t SchemaGrammar::number(const OrderedJson& schema, const std::string& where, bool whole,
                              int32_t next) {
  NumberForm form;
  form.whole = whole;
  add_bounds(schema, where, form);
  add_multiple(schema, where, form);
  // A bound that no number of digits reaches still is one to exponents: with bounds there are none.
  const bool bounded = std::any_of(std::begin(kBounds), std::end(kBounds), [&](const char* bound) {
    return find(schema, bound) != nullptr;
  });
  const bool restricted =
      bounded || form.max_fraction >= 0 || form.multiple_of > 1 || form.whole != whole;
  if (restricted) return number_between(g_, form, next);
  if (!whole) return json_.number(next);
  if (integer_ < 0) {
    integer_ = g_.add_rule("integer");
    g_.set_start(integer_, number_between(g_, form, Grammar::kEnd));
  }
  return g_.call(integer_, next);
}

int32_t SchemaGrammar::array(const OrderedJson& schema, const std::string& where, int32_t next) {
  const OrderedJson* prefix = find(schema, "prefixItems");
  const OrderedJson* items = find(schema, "items");
  if (prefix && (!prefix->is_array() || prefix->empty()))
    refuse(where + ".prefixItems", "expected a list of one schema or more");
  auto fixed = static_cast<uint32_t>(prefix ? prefix->size() : 0);
  // Without `items`, nothing is written after the items of a prefix.
  const bool closed = items ? *items == false : prefix != nullptr;
  const uint32_t low = count_of(schema, "minItems", where).value_or(0);
  uint32_t high = count_of(schema, "maxItems", where).value_or(Grammar::kUnbounded);
  if (low > high)
    refuse_contradiction(where, fmt::format("minItems {} is more than maxItems {}", low, high));
  fixed = std::min(fixed, high);
  if (closed && low > fixed)
    refuse_contradiction(
        where, fmt::format("minItems {} is more than the {} items described", low, fixed));
  if (closed) high = fixed;

  static const OrderedJson any = true;
  const std::string item_where = where + ".items";
  const auto item = [&](int32_t after) {
    return value(items ? *items : any, item_where, Want::json, after);
  };
  if (const OrderedJson* unique = find(schema, "uniqueItems");
      unique && *unique == true && high > 1) {
    OrderedJson values = OrderedJson::array();
    const bool few =
        fixed == 0 && items && core_.list_values(*items, item_where, kMaxDistinct, values);
    if (few) return distinct_items(values, low, high, next);
    core_.leave_out(
        where + ".uniqueItems",
        fmt::format("enforced only for items that are one of at most {} values", kMaxDistinct));
  }
  const int32_t close = g_.byte(']', next), end = json_.space(close);
  if (high == 0) return g_.byte('[', end);
  int32_t rest = end;  // items behind the fixed ones, or behind the first
  if (const uint32_t written = std::max(fixed, 1u); high > written) {
    const int32_t more = g_.add_rule(item_where);
    g_.set_start(more, g_.byte(',', json_.space(item(Grammar::kEnd))));
    rest = g_.repeat(more, low > written ? low - written : 0,
                     high == Grammar::kUnbounded ? high : high - written, end);
  }
  int32_t node = fixed == 0 ? item(rest) : rest;
  for (uint32_t i = fixed; i > 0; --i) {
    const std::string place = fmt::format("{}.prefixItems[{}]", where, i - 1);
    node = value((*prefix)[i - 1], place, Want::json, node);
    if (i > 1) node = g_.byte(',', json_.space(node));
  }
  if (fixed == 0 && low == 0) node = g_.split({node, close});
  return g_.byte('[', json_.space(node));
}

// Arrays in which none of `values`, which are different, comes twice: a node for each set of values
// that are left.
int32_t SchemaGrammar::distinct_items(const OrderedJson& values, uint32_t min, uint32_t max,
                                      int32_t next) {
  const auto count = static_cast<uint32_t>(values.size());
  const int32_t close = g_.byte(']', next), end = json_.space(close);
  // Sets are processed after their subsets. behind[s]: an item has been written, and the values of
  // s are left.
  std::vector<int32_t> items(size_t{1} << count), behind(items.size());
  for (size_t left = 0; left < items.size(); ++left) {
    const auto written = count - static_cast<uint32_t>(std::popcount(left));
    std::vector<int32_t> ways;
    for (uint32_t i = 0; i < count && written < max; ++i)
      if (left >> i & 1) ways.push_back(json_.constant(values[i], behind[left ^ (size_t{1} << i)]));
    items[left] = ways.empty() ? g_.reserve() : g_.split(ways);
    std::vector<int32_t> after;
    if (written >= min) after.push_back(end);
    if (!ways.empty()) after.push_back(g_.byte(',', json_.space(items[left])));
    behind[left] = after.empty() ? g_.reserve() : g_.split(after);
  }
  const int32_t first = items.back();
  return g_.byte('[', json_.space(min == 0 ? g_.split({first, close}) : first));
}

}  // namespace fathom
