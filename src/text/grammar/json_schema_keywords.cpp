#include "text/grammar/json_schema_keywords.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace fathom::schema {
namespace {

constexpr std::string_view kAnnotations[] = {"title",
                                             "description",
                                             "default",
                                             "examples",
                                             "example",
                                             "$comment",
                                             "$schema",
                                             "$id",
                                             "$anchor",
                                             "$dynamicAnchor",
                                             "$vocabulary",
                                             "id",
                                             "deprecated",
                                             "readOnly",
                                             "writeOnly",
                                             "$defs",
                                             "definitions",
                                             "discriminator",
                                             "xml",
                                             "externalDocs",
                                             "errorMessage",
                                             "enumNames",
                                             "contentEncoding",
                                             "contentSchema",
                                             "contentMediaType",
                                             "markdownDescription"};
constexpr std::string_view kUnderstood[] = {"type",
                                            "enum",
                                            "const",
                                            "anyOf",
                                            "oneOf",
                                            "allOf",
                                            "$ref",
                                            "properties",
                                            "required",
                                            "additionalProperties",
                                            "patternProperties",
                                            "propertyNames",
                                            "minProperties",
                                            "maxProperties",
                                            "items",
                                            "prefixItems",
                                            "minItems",
                                            "maxItems",
                                            "uniqueItems",
                                            "pattern",
                                            "format",
                                            "minLength",
                                            "maxLength",
                                            "minimum",
                                            "maximum",
                                            "exclusiveMinimum",
                                            "exclusiveMaximum",
                                            "multipleOf"};
// Supported by rewriting them in terms of other keywords.
constexpr std::string_view kRewritten[] = {
    "const",          "allOf", "not", "nullable", "unevaluatedProperties", "unevaluatedItems",
    "additionalItems"};

struct Refused {
  std::string_view keyword, reason;
};
constexpr Refused kRefused[] = {
    {"if", "use anyOf"},
    {"then", "use anyOf"},
    {"else", "use anyOf"},
    {"dependentRequired", "use anyOf"},
    {"dependentSchemas", "use anyOf"},
    {"dependencies", "use anyOf"},
    {"contains", "say with items what all items are"},
    {"minContains", "use minItems"},
    {"maxContains", "use maxItems"},
};

constexpr std::array<std::string_view, 7> kTypes = {"object",  "array",   "string", "number",
                                                    "integer", "boolean", "null"};

bool contains(std::span<const std::string_view> list, std::string_view word) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

}  // namespace

void refuse(const std::string& where, std::string_view reason) {
  throw GrammarRefusal(fmt::format("{}: {}", where, reason));
}

void refuse_contradiction(const std::string& where, std::string_view reason) {
  throw ContradictorySchema(fmt::format("{}: {}", where, reason));
}

std::string_view type_name(const OrderedJson& value) {
  switch (value.type()) {
    case OrderedJson::value_t::object:
      return "an object";
    case OrderedJson::value_t::array:
      return "an array";
    case OrderedJson::value_t::string:
      return "a string";
    case OrderedJson::value_t::boolean:
      return "true or false";
    case OrderedJson::value_t::null:
      return "null";
    default:
      return "a number";
  }
}

const OrderedJson* find(const OrderedJson& schema, std::string_view key) {
  const auto at = schema.find(key);
  return at == schema.end() ? nullptr : &*at;
}

bool is_annotation(std::string_view key) {
  return contains(kAnnotations, key) || key.starts_with("x-");
}

bool is_understood(std::string_view key) {
  return contains(kUnderstood, key) || contains(kRewritten, key);
}

bool needs_rewriting(std::string_view key, const OrderedJson& value) {
  if (contains(kRewritten, key) || !contains(kUnderstood, key)) return true;
  if (key == "items") return value.is_array();
  if (key == "type") return !are_types(value);
  return (key == "exclusiveMinimum" || key == "exclusiveMaximum") && value.is_boolean();
}

void check_keywords(const OrderedJson& schema, const std::string& where) {
  for (const auto& [key, value] : schema.items()) {
    if (is_annotation(key) || is_understood(key)) continue;
    for (const Refused& r : kRefused) {
      if (r.keyword == key) refuse(where + "." + key, fmt::format("not supported; {}", r.reason));
    }
    refuse(where + "." + key, fmt::format("this keyword is not supported; accepted are {}",
                                          fmt::join(kUnderstood, ", ")));
  }
}

bool are_types(const OrderedJson& type) {
  const auto is_one = [](const OrderedJson& name) {
    return name.is_string() && contains(kTypes, name.get_ref<const std::string&>());
  };
  return type.is_array() ? !type.empty() && std::all_of(type.begin(), type.end(), is_one)
                         : is_one(type);
}

void refuse_types(const OrderedJson& type, const std::string& where, bool strict) {
  if (type.is_array() && type.empty()) refuse(where, "an empty list allows no value");
  for (const OrderedJson& name : type.is_array() ? type : OrderedJson::array({type})) {
    if (are_types(name) || (name.is_string() && !strict)) continue;
    refuse(where, fmt::format("expected one of {}, or a list of them, found {}",
                              fmt::join(kTypes, ", "), name.dump(-1, ' ', true)));
  }
}

std::vector<std::string> types_of(const OrderedJson& schema, const std::string& where) {
  std::vector<std::string> types;
  const OrderedJson* type = find(schema, "type");
  if (type) {
    if (!are_types(*type)) refuse_types(*type, where + ".type", true);
    for (const OrderedJson& name : type->is_array() ? *type : OrderedJson::array({*type}))
      types.push_back(name.get<std::string>());
  } else {
    // Without `type`, keywords that apply to one type only tell which types are meant.
    for (const auto& [key, value] : schema.items()) {
      for (const auto& [name, about] :
           {std::pair{"object",
                      "properties required additionalProperties patternProperties "
                      "propertyNames minProperties maxProperties"},
            std::pair{"array", "items prefixItems minItems maxItems uniqueItems"},
            std::pair{"string", "pattern format minLength maxLength"},
            std::pair{"number", "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf"}}) {
        const std::string padded = fmt::format(" {} ", about);
        if (padded.find(" " + key + " ") != padded.npos) types.emplace_back(name);
      }
    }
  }
  std::vector<std::string> unique;  // in the order they are named
  for (std::string& t : types) {
    if (std::find(unique.begin(), unique.end(), t) == unique.end()) unique.push_back(std::move(t));
  }
  return unique;
}

bool has_type(const OrderedJson& value, std::string_view type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  if (type == "null") return value.is_null();
  if (type == "number") return value.is_number();
  return value.is_number_integer() ||
         (value.is_number_float() && std::trunc(value.get<double>()) == value.get<double>());
}

std::optional<uint32_t> count_of(const OrderedJson& schema, std::string_view key,
                                 const std::string& where) {
  const OrderedJson* value = find(schema, key);
  if (!value) return std::nullopt;
  const std::string place = fmt::format("{}.{}", where, key);
  if (!has_type(*value, "integer") || value->get<double>() < 0 || value->get<double>() > 1e9) {
    refuse(place, fmt::format("expected an integer from 0 to 1000000000, found {}",
                              value->dump(-1, ' ', true)));
  }
  return static_cast<uint32_t>(value->get<double>());
}

const OrderedJson* number_of(const OrderedJson& schema, std::string_view key,
                             const std::string& where) {
  const OrderedJson* value = find(schema, key);
  if (value && !value->is_number())
    refuse(fmt::format("{}.{}", where, key),
           fmt::format("expected a number, found {}", type_name(*value)));
  return value;
}

}  // namespace fathom::schema
