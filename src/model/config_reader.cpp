#include "model/config_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace fathom {
namespace {

using nlohmann::json;

// A value of the file as text for a message: short, on one line, without recursion into nested
// values.
std::string shown(const json& value) {
  if (value.is_object()) return "{...}";
  if (value.is_array() && value.size() > 4) return "[...]";
  if (value.is_array())
    for (const json& v : value)
      if (v.is_structured()) return "[...]";
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  return text.size() > 100 ? text.substr(0, 100) + "..." : text;
}

}  // namespace

bool says_something(const json& value) {
  return !value.is_null() && value != json(false) && value != json(0) && value != json("") &&
         !(value.is_structured() && value.empty());
}

std::optional<int64_t> whole_number(const json& value) {
  constexpr double kExact = 9007199254740992.0;  // 2^53: above, floats skip numbers
  if (value.is_number_float()) {
    const double v = value.get<double>();
    if (std::trunc(v) != v || std::abs(v) > kExact) return std::nullopt;
    return static_cast<int64_t>(v);
  }
  // is_number_integer is true of unsigned values too; those beyond int64 would wrap.
  const bool fits = value.is_number_integer() &&
                    !(value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX);
  return fits ? std::optional(value.get<int64_t>()) : std::nullopt;
}

const json* ConfigReader::get(const std::string& key) const {
  asked_.insert(key);
  if (!object_.is_object()) return nullptr;
  auto it = object_.find(key);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

std::optional<ConfigReader> ConfigReader::child(const std::string& key) {
  const json* value = get(key);
  if (!value) return {};
  if (value->is_object()) return ConfigReader(*value, prefix_ + key + ".", problems_);
  wrong(key, "an object or null");
  return {};
}

bool ConfigReader::sound(std::initializer_list<const char*> keys) const {
  return std::none_of(keys.begin(), keys.end(),
                      [&](const char* key) { return unsound_.count(key) > 0; });
}

void ConfigReader::wrong(const std::string& key, const std::string& expected) {
  const json* value = get(key);
  unsound_.insert(key);
  const std::string found = value ? shown(*value) : std::string("null");
  problems_.push_back(fmt::format("{}{} = {}: expected {}", prefix_, key, found, expected));
}

void ConfigReader::missing(const std::string& key, const std::string& expected) {
  bool null = object_.is_object() && object_.contains(key);
  unsound_.insert(key);
  problems_.push_back(
      fmt::format("{}{} is {}: expected {}", prefix_, key, null ? "null" : "missing", expected));
}

void ConfigReader::no_others(const char* what,
                             const std::function<bool(const std::string&)>& about) {
  if (!object_.is_object()) return;
  const std::set<std::string> asked = asked_;
  for (const auto& [key, value] : object_.items())
    if (asked.count(key) == 0 && says_something(value) && about(key))
      wrong(key, fmt::format("no such key: it is about {}, and not understood", what));
}

int64_t ConfigReader::integer(const std::string& key, int64_t least, int64_t greatest,
                              std::optional<int64_t> fallback) {
  std::string expected = least == greatest
                             ? fmt::format("{}", least)
                             : fmt::format("a whole number from {} to {}", least, greatest);
  const json* value = get(key);
  if (!value) {
    if (!fallback) missing(key, expected);
    return fallback.value_or(least);
  }
  const std::optional<int64_t> v = whole_number(*value);
  if (v && least <= *v && *v <= greatest) return *v;
  wrong(key, expected);
  return least;
}

double ConfigReader::number(const std::string& key, double least, double greatest,
                            std::optional<double> fallback) {
  std::string expected = fmt::format("a number from {} to {}", least, greatest);
  const json* value = get(key);
  if (!value) {
    if (!fallback) missing(key, expected);
    return fallback.value_or(least);
  }
  double v = value->is_number() ? value->get<double>() : NAN;
  if (least <= v && v <= greatest) return v;  // false for NaN
  wrong(key, expected);
  return least;
}

bool ConfigReader::boolean(const std::string& key, bool fallback) {
  const json* value = get(key);
  if (!value) return fallback;
  if (value->is_boolean()) return value->get<bool>();
  wrong(key, "true or false");
  return fallback;
}

std::string ConfigReader::choice(const std::string& key,
                                 std::initializer_list<const char*> accepted,
                                 const std::string& fallback) {
  std::string expected = fmt::format("{}", fmt::join(accepted, " or "));
  const json* value = get(key);
  if (!value) {
    if (fallback.empty()) missing(key, expected);
    return fallback;
  }
  if (value->is_string())
    for (const char* a : accepted)
      if (value->get_ref<const std::string&>() == a) return a;
  wrong(key, expected);
  return fallback;
}

void ConfigReader::only(const std::string& key, bool accepted, const char* why) {
  const json* value = get(key);
  if (value && *value != json(accepted)) wrong(key, fmt::format("{} ({})", accepted, why));
}

}  // namespace fathom
