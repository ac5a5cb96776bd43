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

  // JavaScript takes a dash behind a class escape, as in [\w-.], for itself; std::regex does not.
  static std::regex regex_of(std::string pattern) {
    for (size_t at = 0; (at = pattern.find("\\w-", at)) != pattern.npos; at += 4)
      pattern.insert(at + 2, "\\");
    return std::regex(pattern);
  }

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
    if (s.contains("nullable") && s["nullable"] == true && v.is_null()) return "";
    std::string why;
    if (s.contains("$ref")) why = check(v, target(s["$ref"], root_), depth + 1);
    for (const OrderedJson& part : s.value("allOf", OrderedJson::array()))
      if (why.empty()) why = check(v, part, depth + 1);
    if (!why.empty()) return why;
    if (s.contains("not") && check(v, s["not"], depth + 1).empty()) return "what it must not be";
    for (const char* key : {"anyOf", "oneOf"}) {
      if (!s.contains(key)) continue;
      std::string all;
      bool one = false;
      for (const OrderedJson& branch : s[key]) {
        const std::string no = check(v, branch, depth + 1);
        one = one || no.empty();
        all += no + "; ";
      }
      if (!one) return "none of " + std::string(key) + ": " + all;
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

  // "#", "#/a/b", "#anchor" or the $id of a schema.
  static const OrderedJson& target(const std::string& ref, const OrderedJson& root) {
    if (ref == "#" || ref.starts_with("#/")) {
      std::string path;
      for (size_t i = 1; i < ref.size(); ++i) {
        path += ref[i] == '%' ? static_cast<char>(std::stoi(ref.substr(i + 1, 2), nullptr, 16))
                              : ref[i];
        i += ref[i] == '%' ? 2 : 0;
      }
      return root.at(OrderedJson::json_pointer(path));
    }
    const OrderedJson* found = named(ref, root);
    return found ? *found : throw std::runtime_error("no schema " + ref);
  }
  static const OrderedJson* named(const std::string& id, const OrderedJson& at) {
    if (at.is_object() && at.contains("$id") && at["$id"] == id) return &at;
    if (at.is_object() && at.contains("$anchor") && "#" + at["$anchor"].get<std::string>() == id)
      return &at;
    for (const OrderedJson& inside : at)
      if (inside.is_structured())
        if (const OrderedJson* found = named(id, inside)) return found;
    return nullptr;
  }

  static std::string check_number(double v, const OrderedJson& s) {
    const auto bound = [&](const char* key, double otherwise) {
      return s.contains(key) && s[key].is_number() ? s[key].get<double>() : otherwise;
    };
    // OpenAPI 3.0 says with a flag that a bound is excluded.
    if (s.value("exclusiveMinimum", OrderedJson()) == true && v <= bound("minimum", -INFINITY))
      return std::to_string(v) + " is the excluded bound";
    if (s.value("exclusiveMaximum", OrderedJson()) == true && v >= bound("maximum", INFINITY))
      return std::to_string(v) + " is the excluded bound";
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
    if (s.contains("pattern") && !std::regex_search(v, regex_of(s["pattern"])))
      return v + " does not match " + s["pattern"].dump();
    return "";
  }

  std::string check_array(const OrderedJson& v, const OrderedJson& s, int depth) const {
    if (s.contains("minItems") && v.size() < s["minItems"]) return "too few items";
    if (s.contains("maxItems") && v.size() > s["maxItems"]) return "too many items";
    if (s.value("uniqueItems", false)) {
      for (size_t i = 0; i < v.size(); ++i)
        for (size_t k = 0; k < i; ++k)
          if (v[i] == v[k]) return v[i].dump() + " comes twice";
    }
    // Lists of schemas are called items in draft 7, and what follows them additionalItems.
    const bool old = s.contains("items") && s["items"].is_array();
    const OrderedJson prefix = old ? s["items"] : s.value("prefixItems", OrderedJson::array());
    const char* rest = old ? "additionalItems" : "items";
    for (size_t i = 0; i < v.size(); ++i) {
      if (i >= prefix.size() && !s.contains(rest)) continue;
      const std::string why = check(v[i], i < prefix.size() ? prefix[i] : s[rest], depth + 1);
      if (!why.empty()) return "[" + std::to_string(i) + "]: " + why;
    }
    return "";
  }

  std::string check_object(const OrderedJson& v, const OrderedJson& s, int depth) const {
    if (s.contains("required")) {
      for (const OrderedJson& name : s["required"])
        if (!v.contains(name.get<std::string>())) return "without " + name.dump();
    }
    if (s.contains("minProperties") && v.size() < s["minProperties"]) return "too few members";
    if (s.contains("maxProperties") && v.size() > s["maxProperties"]) return "too many members";
    for (const auto& [key, member] : v.items()) {
      if (s.contains("propertyNames")) {
        const std::string why = check(OrderedJson(key), s["propertyNames"], depth + 1);
        if (!why.empty()) return "the name " + key + ": " + why;
      }
      bool matched = false;
      const OrderedJson patterns = s.value("patternProperties", OrderedJson::object());
      for (const auto& [pattern, rule] : patterns.items()) {
        if (!std::regex_search(key, regex_of(pattern))) continue;
        matched = true;
        const std::string why = check(member, rule, depth + 1);
        if (!why.empty()) return "." + key + ": " + why;
      }
      if (matched) continue;
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
