// Does a value follow a schema? Written from the JSON Schema specification and sharing nothing with
// the code under test.
#pragma once

#include <cmath>
#include <regex>
#include <set>
#include <string>

#include "text/python_json.h"
#include "text/utf8.h"

namespace fathom::test {

class Validator {
 public:
  explicit Validator(const OrderedJson& root) : root_(root) {}

  // Empty if it does; else why not.
  std::string check(const OrderedJson& value) const { return check(value, root_, 0); }

 private:
  static bool is_type(const OrderedJson& v, const std::string& t) {
    if (t == "integer") return v.is_number() && std::floor(v.get<double>()) == v.get<double>();
    if (t == "number") return v.is_number();
    return t == v.type_name() || (t == "null" && v.is_null());
  }

  static size_t characters(const std::string& s) {
    size_t n = 0;
    for (const char c : s) n += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
    return n;
  }

  std::string check(const OrderedJson& v, const OrderedJson& s, int depth) const {
    if (depth > 500) return "endless";
    if (s.is_boolean()) return s.get<bool>() ? "" : "false";
    if (s.contains("$ref")) {
      const std::string ref = s["$ref"];
      return check(v, root_.at(OrderedJson::json_pointer(ref.substr(1))), depth + 1);
    }
    if (s.contains("anyOf")) {
      std::string all;
      for (const OrderedJson& branch : s["anyOf"]) {
        const std::string why = check(v, branch, depth + 1);
        if (why.empty()) return "";
        all += why + "; ";
      }
      return "none of anyOf: " + all;
    }
    if (s.contains("type")) {
      bool fits = false;
      for (const OrderedJson& t : s["type"].is_array() ? s["type"] : OrderedJson{s["type"]})
        fits = fits || is_type(v, t.get<std::string>());
      if (!fits) return v.dump() + " is no " + s["type"].dump();
    }
    if (s.contains("const") && v != s["const"]) return v.dump() + " is not the constant";
    if (s.contains("enum")) {
      bool found = false;
      for (const OrderedJson& e : s["enum"]) found = found || e == v;
      if (!found) return v.dump() + " is not in the enum";
    }
    if (v.is_number()) return check_number(v.get<double>(), s);
    if (v.is_string()) return check_string(v.get<std::string>(), s);
    if (v.is_array()) return check_array(v, s, depth);
    return v.is_object() ? check_object(v, s, depth) : "";
  }

  static std::string check_number(double v, const OrderedJson& s) {
    const auto bound = [&](const char* key, double otherwise) {
      return s.contains(key) ? s[key].get<double>() : otherwise;
    };
    if (v < bound("minimum", -INFINITY) || v > bound("maximum", INFINITY) ||
        v <= bound("exclusiveMinimum", -INFINITY) || v >= bound("exclusiveMaximum", INFINITY)) {
      return std::to_string(v) + " out of bounds";
    }
    if (s.contains("multipleOf")) {
      const double ratio = v / s["multipleOf"].get<double>();
      if (std::fabs(ratio - std::round(ratio)) > 1e-6 * std::max(1.0, std::fabs(ratio)))
        return std::to_string(v) + " no multiple";
    }
    return "";
  }

  static std::string check_string(const std::string& v, const OrderedJson& s) {
    if (first_invalid_utf8(v)) return "not UTF-8";
    if (s.contains("minLength") && characters(v) < s["minLength"]) return v + " too short";
    if (s.contains("maxLength") && characters(v) > s["maxLength"]) return v + " too long";
    if (s.contains("pattern") && !std::regex_search(v, std::regex(s["pattern"].get<std::string>())))
      return v + " does not match " + s["pattern"].dump();
    return "";
  }

  std::string check_array(const OrderedJson& v, const OrderedJson& s, int depth) const {
    if (s.contains("minItems") && v.size() < s["minItems"]) return "too few items";
    if (s.contains("maxItems") && v.size() > s["maxItems"]) return "too many items";
    const size_t fixed = s.contains("prefixItems") ? s["prefixItems"].size() : 0;
    for (size_t i = 0; i < v.size(); ++i) {
      if (i >= fixed && !s.contains("items")) continue;
      const std::string why = check(v[i], i < fixed ? s["prefixItems"][i] : s["items"], depth + 1);
      if (!why.empty()) return "[" + std::to_string(i) + "]: " + why;
    }
    return "";
  }

  std::string check_object(const OrderedJson& v, const OrderedJson& s, int depth) const {
    if (s.contains("required")) {
      for (const OrderedJson& name : s["required"])
        if (!v.contains(name.get<std::string>())) return "without " + name.dump();
    }
    for (const auto& [key, member] : v.items()) {
      const bool named = s.contains("properties") && s["properties"].contains(key);
      const OrderedJson any = true;
      const OrderedJson rule = named                                ? s["properties"][key]
                               : s.contains("additionalProperties") ? s["additionalProperties"]
                                                                    : any;
      const std::string why = check(member, rule, depth + 1);
      if (!why.empty()) return "." + key + ": " + why;
    }
    return "";
  }

  const OrderedJson& root_;
};

}  // namespace fathom::test
