#include "text/grammar/json_schema_core.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "text/grammar/json_schema_keywords.h"
#include "text/utf8.h"

namespace fathom {

using schema::find;
using schema::refuse;

namespace {

constexpr int kMaxNestedNames = 64;

bool is_empty_schema(const OrderedJson& schema) {
  return schema == true || (schema.is_object() && schema.empty());
}

OrderedJson all_of(const OrderedJson& a, const OrderedJson& b) {
  if (a == b || is_empty_schema(b)) return a;
  if (is_empty_schema(a)) return b;
  return {{"allOf", OrderedJson::array({a, b})}};
}

std::string percent_decoded(std::string_view text) {
  const auto hex = [](char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
  };
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool code =
        text[i] == '%' && i + 2 < text.size() && hex(text[i + 1]) >= 0 && hex(text[i + 2]) >= 0;
    out += code ? static_cast<char>(hex(text[i + 1]) * 16 + hex(text[i + 2])) : text[i];
    i += code ? 2 : 0;
  }
  return first_invalid_utf8(out) ? std::string(text) : out;
}

OrderedJson both_types(const OrderedJson& a, const OrderedJson& b) {
  const auto list = [](const OrderedJson& t) { return t.is_array() ? t : OrderedJson::array({t}); };
  OrderedJson both = OrderedJson::array();
  for (const OrderedJson& x : list(a)) {
    for (const OrderedJson& y : list(b)) {
      const bool integer = (x == "integer" && y == "number") || (x == "number" && y == "integer");
      const OrderedJson type = integer ? OrderedJson("integer") : x;
      if ((x == y || integer) && std::find(both.begin(), both.end(), type) == both.end())
        both.push_back(type);
    }
  }
  return both;
}

// What an object schema says of a member that its properties do not name.
const OrderedJson& other_members(const OrderedJson& schema) {
  static const OrderedJson any = true;
  const OrderedJson* additional = find(schema, "additionalProperties");
  return additional && !find(schema, "patternProperties") ? *additional : any;
}

OrderedJson both_members(const OrderedJson& member, const OrderedJson& others) {
  return others == false ? OrderedJson(false) : all_of(member, others);
}

// The properties of two object schemas that both hold.
OrderedJson both_properties(const OrderedJson& a, const OrderedJson& b) {
  static const OrderedJson none = OrderedJson::object();
  const OrderedJson* of_a = find(a, "properties");
  const OrderedJson* of_b = find(b, "properties");
  const OrderedJson& in_a = of_a && of_a->is_object() ? *of_a : none;
  const OrderedJson& in_b = of_b && of_b->is_object() ? *of_b : none;
  OrderedJson both = OrderedJson::object();
  for (const auto& [name, member] : in_a.items()) {
    const auto same = in_b.find(name);
    both[name] =
        same != in_b.end() ? all_of(member, *same) : both_members(member, other_members(b));
  }
  for (const auto& [name, member] : in_b.items())
    if (!in_a.contains(name)) both[name] = both_members(member, other_members(a));
  return both;
}

OrderedJson both_prefixes(const OrderedJson& a, const OrderedJson& b) {
  static const OrderedJson any = true;
  const auto item = [](const OrderedJson& s, size_t i) -> const OrderedJson& {
    const OrderedJson* prefix = find(s, "prefixItems");
    if (prefix && i < prefix->size()) return (*prefix)[i];
    const OrderedJson* items = find(s, "items");
    return items ? *items : any;
  };
  const auto length = [](const OrderedJson& s) {
    const OrderedJson* prefix = find(s, "prefixItems");
    return prefix ? prefix->size() : 0;
  };
  OrderedJson both = OrderedJson::array();
  for (size_t i = 0; i < std::max(length(a), length(b)); ++i)
    both.push_back(both_members(item(a, i), item(b, i)));
  return both;
}

// Rewrites the tuples and bounds of earlier drafts in today's keywords.
void modernise(OrderedJson& s) {
  if (const OrderedJson* items = find(s, "items"); items && items->is_array()) {
    OrderedJson prefix = *items;
    s.erase("items");
    if (!prefix.empty()) s["prefixItems"] = std::move(prefix);
    if (const OrderedJson* rest = find(s, "additionalItems")) s["items"] = OrderedJson(*rest);
  }
  s.erase("additionalItems");
  for (const auto& [exclusive, bound] :
       {std::pair("exclusiveMinimum", "minimum"), std::pair("exclusiveMaximum", "maximum")}) {
    const OrderedJson* flag = find(s, exclusive);
    if (!flag || !flag->is_boolean()) continue;
    const bool excluded = flag->get<bool>();
    s.erase(exclusive);
    if (!excluded || !s.contains(bound)) continue;
    s[exclusive] = OrderedJson(s[bound]);
    s.erase(bound);
  }
}

// Resolves unevaluatedProperties and unevaluatedItems. Answers have no members or items beyond
// those listed, so the keyword matters only if nothing is listed.
void settle_unevaluated(OrderedJson& s) {
  for (const auto& [unevaluated, other] :
       {std::pair("unevaluatedProperties", "additionalProperties"),
        std::pair("unevaluatedItems", "items")}) {
    const OrderedJson* rest = find(s, unevaluated);
    if (!rest) continue;
    const OrderedJson value = *rest;
    s.erase(unevaluated);
    const bool listed = s.contains(other) || s.contains("properties") ||
                        s.contains("patternProperties") || s.contains("prefixItems");
    if (!listed) s[other] = value;
  }
}

}  // namespace

// Schemas that must all hold, while they are merged into one.
struct SchemaCore::Conjunction {
  OrderedJson base = OrderedJson::object();  // their keywords
  std::vector<OrderedJson> choices;          // lists of branches, of each of which one holds
  std::vector<const OrderedJson*> inside;    // targets of references that are being added
  int schemas = 0;                           // that keywords came from
  bool never = false;
};

void SchemaCore::leave_out(const std::string& where, std::string_view reason) const {
  if (strict_) refuse(where, reason);
}

const OrderedJson& SchemaCore::keep(OrderedJson schema) {
  kept_bytes_ += schema.dump(-1, ' ', false, OrderedJson::error_handler_t::replace).size();
  if (kept_bytes_ > kMaxKeptBytes)
    refuse(root_where_, "allOf, anyOf and $ref together make too large a schema of it");
  return kept_.emplace_back(std::move(schema));
}

// Whether the schema is in one of the forms of of() already.
bool SchemaCore::is_core(const OrderedJson& schema) const {
  size_t keywords = 0;
  bool alone = false;
  for (const auto& [key, value] : schema.items()) {
    if (schema::is_annotation(key)) continue;
    ++keywords;
    if (schema::needs_rewriting(key, value)) return false;
    alone = alone || key == "$ref" || key == "anyOf" || key == "oneOf" || key == "enum";
  }
  return !alone || keywords == 1;
}

const OrderedJson& SchemaCore::of(const OrderedJson& schema, const std::string& where) {
  if (schema.is_boolean()) return schema;
  if (!schema.is_object())
    refuse(where, fmt::format("expected a schema, found {}", schema::type_name(schema)));
  if (strict_) schema::check_keywords(schema, where);
  if (is_core(schema)) return schema;
  const OrderedJson*& core = cores_[{&schema, ""}];
  if (!core) core = &keep(simplified({&schema}, where));
  return *core;
}

const OrderedJson& SchemaCore::of_type(const OrderedJson& schema, const char* type,
                                       const std::string& where) {
  const OrderedJson*& core = cores_[{&schema, type}];
  if (core) return *core;
  const OrderedJson typed = {{"type", type}};
  return *(core = &keep(simplified({&schema, &typed}, where)));
}

OrderedJson SchemaCore::simplified(const std::vector<const OrderedJson*>& all,
                                   const std::string& where) {
  Conjunction conjunction;
  for (const OrderedJson* schema : all) add(conjunction, *schema, where);
  return finished(conjunction, where);
}

void SchemaCore::add(Conjunction& all, const OrderedJson& schema, const std::string& where) {
  if (++parts_ > kMaxParts)
    refuse(root_where_, "allOf and $ref put together more schemas than are accepted");
  if (schema.is_boolean()) {
    all.never = all.never || !schema.get<bool>();
    return;
  }
  if (!schema.is_object())
    refuse(where, fmt::format("expected a schema, found {}", schema::type_name(schema)));
  if (strict_) schema::check_keywords(schema, where);
  if (const OrderedJson* nullable = find(schema, "nullable"); nullable && *nullable == true) {
    OrderedJson rest = schema;
    rest.erase("nullable");
    all.choices.push_back(OrderedJson::array({std::move(rest), {{"type", "null"}}}));
    return;
  }
  add_keywords(all, schema, where);
}

void SchemaCore::add_keywords(Conjunction& all, const OrderedJson& schema,
                              const std::string& where) {
  OrderedJson rest = OrderedJson::object();
  for (const auto& [key, value] : schema.items()) {
    const std::string place = where + "." + key;
    if (schema::is_annotation(key) || key == "nullable") continue;
    if (key == "$ref") {
      const auto [target, target_place] = target_of(schema, where);
      if (std::find(all.inside.begin(), all.inside.end(), target) != all.inside.end())
        refuse(where, "it refers to itself with nothing in between");
      all.inside.push_back(target);
      add(all, *target, target_place);
      all.inside.pop_back();
    } else if (key == "allOf" || key == "anyOf" || key == "oneOf") {
      if (!value.is_array() || value.empty())
        refuse(place, "expected a list of one schema or more");
      if (key == "allOf") {
        for (size_t i = 0; i < value.size(); ++i)
          add(all, value[i], fmt::format("{}[{}]", place, i));
      } else {
        all.choices.push_back(value);
      }
    } else if (key == "not") {
      if (is_empty_schema(value))
        all.never = true;
      else
        leave_out(place, "not supported; say with type, enum or anyOf what is allowed");
    } else if (key == "const") {
      rest["enum"] = OrderedJson::array({value});
    } else if (key == "type" && !schema::are_types(value)) {
      schema::refuse_types(value, place, strict_);
    } else if (schema::is_understood(key)) {
      rest[key] = value;
    }
  }
  modernise(rest);
  all.schemas += rest.empty() ? 0 : 1;
  merge(all.base, rest, where);
}

void SchemaCore::merge(OrderedJson& base, const OrderedJson& more, const std::string& where) const {
  if (base.empty()) {
    base = more;
    return;
  }
  const OrderedJson before = base;
  if (base.contains("properties") || more.contains("properties"))
    base["properties"] = both_properties(before, more);
  if (base.contains("prefixItems") || more.contains("prefixItems"))
    base["prefixItems"] = both_prefixes(before, more);
  for (const auto& [key, value] : more.items()) {
    if (key == "properties" || key == "prefixItems") continue;
    if (base.contains(key))
      merge_keyword(base, key, value, where);
    else
      base[key] = value;
  }
}

void SchemaCore::merge_keyword(OrderedJson& base, const std::string& key, const OrderedJson& value,
                               const std::string& where) const {
  OrderedJson& mine = base[key];
  if (mine == value) return;
  const auto one_of = [&](std::initializer_list<std::string_view> keys) {
    return std::find(keys.begin(), keys.end(), key) != keys.end();
  };
  if (key == "type") {
    mine = both_types(mine, value);
  } else if (key == "enum") {
    OrderedJson both = OrderedJson::array();
    for (const OrderedJson& v : mine)
      if (std::find(value.begin(), value.end(), v) != value.end()) both.push_back(v);
    mine = std::move(both);
  } else if (key == "required" && mine.is_array() && value.is_array()) {
    for (const OrderedJson& name : value)
      if (std::find(mine.begin(), mine.end(), name) == mine.end()) mine.push_back(name);
  } else if (one_of({"additionalProperties", "items", "propertyNames"})) {
    mine = mine == false || value == false ? OrderedJson(false) : all_of(mine, value);
  } else if (one_of({"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"})) {
    if (mine < value) mine = value;
  } else if (one_of({"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"})) {
    if (value < mine) mine = value;
  } else if (key == "uniqueItems") {
    mine = mine == true || value == true;
  } else if (key == "format") {
    leave_out(where + ".format", "two formats of one text are not supported");
  } else {
    leave_out(where + "." + key,
              fmt::format("two different {} of one value are not supported", key));
  }
}

OrderedJson SchemaCore::finished(Conjunction& all, const std::string& where) const {
  if (all.never) return false;
  OrderedJson& base = all.base;
  if (all.choices.empty()) settle_unevaluated(base);
  if (const OrderedJson* type = find(base, "type"); type && type->is_array() && type->empty()) {
    if (all.schemas > 1) return false;
  }
  if (!all.choices.empty()) {
    OrderedJson branches = OrderedJson::array();
    for (const OrderedJson& branch : all.choices[0]) {
      OrderedJson parts = OrderedJson::array();
      if (!base.empty()) parts.push_back(base);
      parts.push_back(branch);
      for (size_t i = 1; i < all.choices.size(); ++i) parts.push_back({{"anyOf", all.choices[i]}});
      branches.push_back(parts.size() == 1 ? branch : OrderedJson{{"allOf", std::move(parts)}});
    }
    return {{"anyOf", std::move(branches)}};
  }
  const OrderedJson* values = find(base, "enum");
  if (!values) return base.empty() ? OrderedJson(true) : base;
  if (!values->is_array()) return base;
  const std::vector<std::string> types =
      base.contains("type") ? schema::types_of(base, where) : std::vector<std::string>();
  OrderedJson fitting = OrderedJson::array();
  for (const OrderedJson& v : *values) {
    const auto fits = [&](const std::string& type) { return schema::has_type(v, type); };
    if (types.empty() || std::any_of(types.begin(), types.end(), fits)) fitting.push_back(v);
  }
  for (const auto& [key, value] : base.items())
    if (key != "enum" && key != "type") leave_out(where + "." + key, "not supported beside enum");
  if (fitting.empty() && all.schemas > 1) return false;
  if (fitting.empty() && !values->empty())
    schema::refuse_contradiction(where + ".enum", "no value is of the type that is asked for");
  return {{"enum", std::move(fitting)}};
}

bool SchemaCore::list_values(const OrderedJson& schema, const std::string& where, size_t most,
                             OrderedJson& values) {
  const OrderedJson& core = of(schema, where);
  if (!core.is_object()) return core == false;
  if (const OrderedJson* branches = find(core, "anyOf")) {
    return branches->is_array() &&
           std::all_of(branches->begin(), branches->end(), [&](const OrderedJson& branch) {
             try {
               return list_values(branch, where, most, values);
             } catch (const ContradictorySchema&) {
               if (strict_) throw;
               return true;  // it adds no value
             }
           });
  }
  const OrderedJson* list = find(core, "enum");
  if (!list || !list->is_array()) return false;
  for (const OrderedJson& v : *list)
    if (std::find(values.begin(), values.end(), v) == values.end()) values.push_back(v);
  return values.size() <= most;
}

// The names by which a $ref may call the schemas of the document.
void SchemaCore::find_names(const OrderedJson& schema, const std::string& where, int depth) {
  if (depth > kMaxNestedNames || !schema.is_structured()) return;
  if (schema.is_object()) {
    for (const auto& [key, lead] :
         {std::pair("$anchor", "#"), std::pair("$dynamicAnchor", "#"), std::pair("$id", "")}) {
      const OrderedJson* name = find(schema, key);
      if (name && name->is_string())
        names_.try_emplace(lead + name->get<std::string>(), &schema, where);
    }
  }
  for (const auto& [key, inside] : schema.items()) {
    if (key == "enum" || key == "const" || key == "default" || key == "examples") continue;
    find_names(inside, schema.is_array() ? fmt::format("{}[{}]", where, key) : where + "." + key,
               depth + 1);
  }
}

std::pair<const OrderedJson*, std::string> SchemaCore::target_of(const OrderedJson& schema,
                                                                 const std::string& where) {
  const OrderedJson& ref = *find(schema, "$ref");
  const std::string place = where + ".$ref";
  const auto unknown = [&] {
    refuse(place, fmt::format("expected \"#\" or a place in this schema such as \"#/$defs/name\", "
                              "found {}",
                              ref.dump(-1, ' ', true)));
  };
  if (!ref.is_string()) unknown();
  const std::string text = percent_decoded(ref.get_ref<const std::string&>());
  if (!text.starts_with("#/") && text != "#") {
    if (!std::exchange(names_found_, true)) find_names(root_, root_where_, 0);
    const auto named = names_.find(text);
    if (named == names_.end()) unknown();
    return named->second;
  }
  const OrderedJson* at = &root_;
  std::string found = root_where_;
  for (size_t i = 1; i < text.size();) {
    const size_t end = std::min(text.find('/', i + 1), text.size());
    std::string key;
    for (size_t k = i + 1; k < end; ++k) {  // ~1 is a slash, ~0 a tilde
      const bool escape = text[k] == '~' && k + 1 < end;
      key += !escape ? text[k] : text[++k] == '1' ? '/' : '~';
    }
    const OrderedJson* next = nullptr;
    if (at->is_object()) next = find(*at, key);
    if (at->is_array() && !key.empty() && key.size() < 9 &&
        key.find_first_not_of("0123456789") == key.npos) {
      const size_t index = std::stoul(key);
      if (index < at->size()) next = &(*at)[index];
    }
    if (!next) refuse(place, fmt::format("{} leads nowhere", ref.dump(-1, ' ', true)));
    at = next;
    found += "." + key;
    i = end;
  }
  return {at, found};
}

}  // namespace fathom
