#include "text/grammar/json_schema.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "text/grammar/grammar_number.h"
#include "text/grammar/grammar_regex.h"
#include "text/grammar/json_schema_keywords.h"
#include "text/utf8.h"

namespace fathom {

using schema::count_of;
using schema::find;
using schema::refuse;

struct SchemaGrammar::Inside {
  Inside(SchemaGrammar& owner, const std::string& where) : owner_(owner) {
    if (++owner_.depth_ > kMaxDepth)
      refuse(where, fmt::format("schemas are nested more than {} deep", kMaxDepth));
  }
  ~Inside() { --owner_.depth_; }
  SchemaGrammar& owner_;
};

int32_t SchemaGrammar::value(const OrderedJson& schema, const std::string& where, Want want,
                             int32_t next) {
  const Inside inside(*this, where);
  return value_inside(schema, where, want, next);
}

int32_t SchemaGrammar::value_inside(const OrderedJson& schema, const std::string& where, Want want,
                                    int32_t next) {
  static const OrderedJson any_value = OrderedJson::object();
  if (schema.is_boolean()) {
    if (!schema.get<bool>()) refuse(where, "no value follows the schema false");
    return value(any_value, where, want, next);
  }
  if (!schema.is_object())
    refuse(where, fmt::format("expected a schema, found {}", schema::type_name(schema)));
  schema::check_keywords(schema, where);
  if (find(schema, "$ref")) return reference(schema, where, want, next);
  if (find(schema, "anyOf")) return any_of(schema, where, want, next);
  if (find(schema, "enum") || find(schema, "const")) return enumeration(schema, where, want, next);

  std::vector<std::string> types = schema::types_of(schema, where);
  if (types.empty()) {
    if (want == Want::json) return json_.value(next);
    types = {"object", "array", "string", "number", "boolean", "null"};
  }
  std::vector<int32_t> ways;
  for (const std::string& type : types) {
    if ((type == "string") ? want == Want::not_string : want == Want::raw_string) continue;
    ways.push_back(of_type(type, schema, where, want, next));
  }
  return ways.empty() ? g_.reserve() : g_.split(ways);
}

int32_t SchemaGrammar::of_type(std::string_view type, const OrderedJson& schema,
                               const std::string& where, Want want, int32_t next) {
  if (type == "string")
    return string(schema, where, want == Want::raw_string ? Spelling::raw : Spelling::json, next);
  if (type == "number" || type == "integer") return number(schema, where, type == "integer", next);
  if (type == "boolean") return g_.any_of({"true", "false"}, next);
  if (type == "null") return g_.literal("null", next);
  if (++levels_ > kMaxLevels) {
    refuse(where, fmt::format("objects and arrays are nested more than {} levels deep (a $ref "
                              "starts anew)",
                              kMaxLevels));
  }
  const int32_t node =
      type == "array" ? array(schema, where, next) : object(members_of(schema, where), next);
  --levels_;
  return node;
}

// The schema that a $ref leads to, through further ones, and its place.
std::pair<const OrderedJson*, std::string> SchemaGrammar::target_of(
    const OrderedJson& schema, const std::string& where) const {
  schema::check_alone(schema, where, "$ref");
  const OrderedJson& ref = *find(schema, "$ref");
  const std::string place = where + ".$ref";
  if (!ref.is_string() || !ref.get_ref<const std::string&>().starts_with('#')) {
    refuse(place, fmt::format("expected \"#\" or a place in this schema such as \"#/$defs/name\", "
                              "found {}",
                              ref.dump(-1, ' ', true)));
  }
  const std::string& text = ref.get_ref<const std::string&>();
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
    if (text[i] == '/' && at->is_object()) next = find(*at, key);
    if (text[i] == '/' && at->is_array() && !key.empty() && key.size() < 9 &&
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

// A rule of its own, made later: references may lead back to where they stand.
int32_t SchemaGrammar::reference(const OrderedJson& schema, const std::string& where, Want want,
                                 int32_t next) {
  const auto [target, place] = target_of(schema, where);
  const auto [at, is_new] = rules_.try_emplace({target, want}, -1);
  if (is_new) {
    if (rules_.size() > kMaxReferences)
      refuse(where, fmt::format("references to more than {} schemas in all", kMaxReferences));
    at->second = g_.add_rule(place);
    pending_.push_back({at->second, target, place, want});
  }
  return g_.call(at->second, next);
}

void SchemaGrammar::finish() {
  while (!pending_.empty()) {
    const Pending p = std::move(pending_.front());
    pending_.pop_front();
    g_.set_start(p.rule, value(*p.schema, p.where, p.want, Grammar::kEnd));
  }
}

int32_t SchemaGrammar::any_of(const OrderedJson& schema, const std::string& where, Want want,
                              int32_t next) {
  schema::check_alone(schema, where, "anyOf");
  const OrderedJson& branches = *find(schema, "anyOf");
  if (!branches.is_array() || branches.empty())
    refuse(where + ".anyOf", "expected a list of one schema or more");
  std::vector<int32_t> ways;
  for (size_t i = 0; i < branches.size(); ++i)
    ways.push_back(value(branches[i], fmt::format("{}.anyOf[{}]", where, i), want, next));
  return g_.split(ways);
}

void SchemaGrammar::add_text(size_t bytes, const std::string& where) {
  text_ += bytes;
  if (text_ > kMaxText) {
    refuse(where, fmt::format("names of properties and values of enums have more than {} bytes in "
                              "all",
                              kMaxText));
  }
}

void SchemaGrammar::check_enum_size(const OrderedJson& values, const std::string& where) {
  if (!counted_.insert(&values).second) return;
  size_t text = 0;
  for (const OrderedJson& v : values)
    text += v.is_string() ? v.get_ref<const std::string&>().size() : 0;
  if (values.size() > kMaxLongEnum && text > kMaxLongEnumText) {
    refuse(where, fmt::format("an enum of more than {} values may have {} bytes of text, this one "
                              "has {}",
                              kMaxLongEnum, kMaxLongEnumText, text));
  }
  enum_values_ += values.size();
  if (enum_values_ > kMaxEnumValues)
    refuse(where, fmt::format("the enums have more than {} values in all", kMaxEnumValues));
  add_text(text, where);
}

namespace {

int depth_of(const OrderedJson& value, int limit) {
  if (!value.is_structured() || limit == 0) return 0;
  int depth = 0;
  for (const OrderedJson& v : value) depth = std::max(depth, depth_of(v, limit - 1));
  return depth + 1;
}

// Text that would end the tag around it.
bool breaks_tags(const std::string& text) {
  std::string bar;
  append_utf8(bar, kBar);
  return text.find("<" + bar) != text.npos || text.find("</" + bar) != text.npos;
}

}  // namespace

int32_t SchemaGrammar::enumeration(const OrderedJson& schema, const std::string& where, Want want,
                                   int32_t next) {
  const OrderedJson* list = find(schema, "enum");
  const std::string place = where + (list ? ".enum" : ".const");
  schema::check_alone(schema, where, list ? "enum" : "const");
  if (list && (!list->is_array() || list->empty()))
    refuse(place, "expected a list of one value or more");
  OrderedJson single = OrderedJson::array();
  if (!list) single.push_back(*find(schema, "const"));
  const OrderedJson& values = list ? *list : single;
  if (list) {
    check_enum_size(values, place);
  } else if (single[0].is_string() && counted_.insert(find(schema, "const")).second) {
    add_text(single[0].get_ref<const std::string&>().size(), place);
  }
  const std::vector<std::string> types = schema::types_of(schema, where);
  std::vector<std::string> texts;
  std::vector<int32_t> ways;
  bool any = false;
  for (const OrderedJson& v : values) {
    const auto fits = [&](const std::string& type) { return schema::has_type(v, type); };
    if (!types.empty() && std::none_of(types.begin(), types.end(), fits)) continue;
    any = true;
    if (v.is_string() ? want == Want::not_string : want == Want::raw_string) continue;
    if (want == Want::raw_string) {
      texts.push_back(v.get<std::string>());
      if (breaks_tags(texts.back()))
        refuse(place,
               "a value holds the beginning of a marker (< and U+FF5C), which this model's "
               "tool calls cannot carry");
    } else if (v.is_string()) {
      texts.push_back("\"" + json_spelling(v.get_ref<const std::string&>()) + "\"");
    } else {
      if (depth_of(v, kMaxDepth + 1) > kMaxDepth)
        refuse(place, fmt::format("a value is nested more than {} deep", kMaxDepth));
      ways.push_back(json_.constant(v, next));
    }
  }
  if (!any) refuse(place, "no value is of the type that is asked for");
  if (!texts.empty()) ways.push_back(g_.any_of(std::move(texts), next));
  return ways.empty() ? g_.reserve() : g_.split(ways);
}

int32_t SchemaGrammar::string(const OrderedJson& schema, const std::string& where,
                              Spelling spelling, int32_t next) {
  const OrderedJson* pattern = find(schema, "pattern");
  const OrderedJson* format = find(schema, "format");
  const auto min = count_of(schema, "minLength", where), max = count_of(schema, "maxLength", where);
  if ((pattern && format) || ((pattern || format) && (min || max))) {
    refuse(where,
           "pattern, format and the lengths are supported one at a time; say it in the "
           "pattern");
  }
  const int32_t end = spelling == Spelling::json ? g_.byte('"', next) : next;
  int32_t node = -1;
  if (const OrderedJson* rule = pattern ? pattern : format) {
    const std::string place = where + (pattern ? ".pattern" : ".format");
    if (!rule->is_string())
      refuse(place, fmt::format("expected a string, found {}", schema::type_name(*rule)));
    std::string_view text = rule->get_ref<const std::string&>();
    if (format && (text = format_pattern(text)).empty()) {
      refuse(place, fmt::format("{} is not supported; accepted are {}", rule->dump(-1, ' ', true),
                                known_formats()));
    }
    node = matching(json_, text, spelling, place, end);
  } else if (min || max) {
    const uint32_t low = min.value_or(0), high = max.value_or(Grammar::kUnbounded);
    if (low > high) refuse(where, fmt::format("minLength {} is more than maxLength {}", low, high));
    node = g_.repeat(json_.any_character_rule(spelling), low, high, end);
  } else {
    return spelling == Spelling::json ? json_.string(next) : json_.raw_text(next);
  }
  return spelling == Spelling::json ? g_.byte('"', node) : node;
}

int32_t SchemaGrammar::number(const OrderedJson& schema, const std::string& where, bool whole,
                              int32_t next) {
  NumberForm form;
  form.whole = whole;
  bool restricted = false;
  const auto decimal = [&](const char* key) -> std::optional<Decimal> {
    const OrderedJson* value = schema::number_of(schema, key, where);
    if (!value) return std::nullopt;
    restricted = true;
    const auto d = decimal_of(value->dump());
    if (!d) {
      refuse(fmt::format("{}.{}", where, key),
             fmt::format("{} has more than {} digits in front of or behind the point",
                         value->dump(), JsonGrammar::kMaxDigits));
    }
    return d;
  };
  const auto tighten = [&](std::optional<NumberForm::Bound>& bound, const char* key,
                           bool excluded) {
    const auto d = decimal(key);
    if (!d) return;
    if (bound)
      refuse(fmt::format("{}.{}", where, key), "give one bound on either side, with or without it");
    bound = {*d, excluded};
  };
  tighten(form.low, "minimum", false);
  tighten(form.low, "exclusiveMinimum", true);
  tighten(form.high, "maximum", false);
  tighten(form.high, "exclusiveMaximum", true);
  const auto double_of = [](const NumberForm::Bound& b) {
    return std::stod((b.value.negative ? "-" : "") + b.value.whole + "." + b.value.fraction);
  };
  if (form.low && form.high && double_of(*form.low) > double_of(*form.high)) {
    refuse(where,
           fmt::format("no number is from {} to {}", double_of(*form.low), double_of(*form.high)));
  }
  if (const auto step = decimal("multipleOf")) {
    const bool power = step->whole == "0" &&
                       step->fraction.find_first_not_of('0') + 1 == step->fraction.size() &&
                       step->fraction.ends_with('1');
    const bool integer = step->is_whole() && !step->is_zero() && step->whole.size() <= 4 &&
                         std::stoul(step->whole) <= NumberForm::kMaxMultiple;
    if (step->negative || !(power || integer)) {
      refuse(where + ".multipleOf",
             fmt::format("accepted are 1 to {}, and 0.1, 0.01, ...", NumberForm::kMaxMultiple));
    }
    if (power) form.max_fraction = static_cast<int>(step->fraction.size());
    if (integer) {
      form.whole = true;
      form.multiple_of = static_cast<uint32_t>(std::stoul(step->whole));
    }
  }
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
  if (items && items->is_array())
    refuse(where + ".items", "expected a schema, found an array; a list of schemas is prefixItems");
  const auto fixed = static_cast<uint32_t>(prefix ? prefix->size() : 0);
  // Behind a prefix nothing is written unless `items` says what.
  const bool closed = items ? *items == false : prefix != nullptr;
  const uint32_t low = count_of(schema, "minItems", where).value_or(0);
  uint32_t high = count_of(schema, "maxItems", where).value_or(Grammar::kUnbounded);
  if (low > high) refuse(where, fmt::format("minItems {} is more than maxItems {}", low, high));
  if (high < fixed)
    refuse(where, fmt::format("maxItems {} is less than the {} prefixItems", high, fixed));
  if (closed && low > fixed)
    refuse(where, fmt::format("minItems {} is more than the {} items described", low, fixed));
  if (closed) high = fixed;

  const OrderedJson any = true;
  const std::string item_where = where + ".items";
  const auto item = [&](int32_t after) {
    return value(items ? *items : any, item_where, Want::json, after);
  };
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

SchemaGrammar::Members SchemaGrammar::members_of(const OrderedJson& schema,
                                                 const std::string& where) {
  Members members;
  const OrderedJson* properties = find(schema, "properties");
  const OrderedJson* required = find(schema, "required");
  const OrderedJson* additional = find(schema, "additionalProperties");
  if (properties && !properties->is_object())
    refuse(where + ".properties",
           fmt::format("expected an object, found {}", schema::type_name(*properties)));
  if (additional && !additional->is_boolean() && !additional->is_object())
    refuse(
        where + ".additionalProperties",
        fmt::format("expected false, true or a schema, found {}", schema::type_name(*additional)));
  if (properties) {
    const bool first = counted_.insert(properties).second;
    for (const auto& [name, member] : properties->items()) {
      const std::string place = where + ".properties." + name;
      members.list.push_back({name, &member, false, place});
      if (!first) continue;
      if (++properties_ > kMaxProperties)
        refuse(place, fmt::format("more than {} properties in all", kMaxProperties));
      add_text(name.size(), place);
    }
  }
  if (required && !required->is_array())
    refuse(where + ".required",
           fmt::format("expected a list, found {}", schema::type_name(*required)));
  std::map<std::string_view, Member*> by_name;
  for (Member& m : members.list) by_name.emplace(m.name, &m);
  if (required) {
    for (const OrderedJson& name : *required) {
      const auto at =
          name.is_string() ? by_name.find(name.get_ref<const std::string&>()) : by_name.end();
      if (at == by_name.end())
        refuse(where + ".required", fmt::format("{} is not the name of one of the properties",
                                                name.dump(-1, ' ', true)));
      at->second->required = true;
    }
  }
  // An object without a word about its properties is any object; with an empty list it is empty.
  if (members.list.empty() && (additional ? *additional != false : properties == nullptr)) {
    members.open = true;
    members.values = additional && additional->is_object() ? additional : nullptr;
    members.values_where = where + ".additionalProperties";
  }
  return members;
}

SchemaGrammar::Members SchemaGrammar::root_members() {
  const OrderedJson* schema = &root_;
  std::string where = root_where_;
  std::set<const OrderedJson*> passed;
  while (schema->is_object() && find(*schema, "$ref")) {
    if (!passed.insert(schema).second) refuse(where, "it refers to itself with nothing in between");
    std::tie(schema, where) = target_of(*schema, where);
  }
  if (!schema->is_object())
    refuse(where,
           fmt::format("expected the schema of an object, found {}", schema::type_name(*schema)));
  schema::check_keywords(*schema, where);
  const std::vector<std::string> types = schema::types_of(*schema, where);
  const bool is_object =
      types.empty() || std::find(types.begin(), types.end(), "object") != types.end();
  for (const char* key : {"anyOf", "enum", "const"}) {
    if (find(*schema, key))
      refuse(where + "." + key,
             "not supported here; expected the schema of an object with "
             "properties");
  }
  if (!is_object) refuse(where + ".type", "expected \"object\"");
  return members_of(*schema, where);
}

// Properties come in their order; those that are not required may be left out.
int32_t SchemaGrammar::object(const Members& members, int32_t next) {
  if (members.open) {
    const OrderedJson any = true;
    return json_.list(
        '{', '}',
        [&](int32_t after) {
          return json_.string(json_.colon(value(members.values ? *members.values : any,
                                                members.values_where, Want::json, after)));
        },
        next);
  }
  const int32_t close = g_.byte('}', next), end = json_.space(close);
  int32_t from_here = -1;  // one of this property and those behind it, and what follows
  bool may_end = true;     // no property behind this one is required
  size_t optional_in_a_row = 0;
  for (auto m = members.list.rbegin(); m != members.list.rend(); ++m) {
    std::vector<int32_t> after;
    if (may_end) after.push_back(end);
    if (from_here >= 0) after.push_back(g_.byte(',', json_.space(from_here)));
    const int32_t this_one =
        g_.literal("\"" + json_spelling(m->name) + "\"",
                   json_.colon(value(*m->schema, m->where, Want::json, g_.split(after))));
    optional_in_a_row = m->required ? 0 : optional_in_a_row + 1;
    if (optional_in_a_row > kMaxOptionalInARow)
      refuse(m->where, fmt::format("more than {} properties in a row that are not required",
                                   kMaxOptionalInARow));
    from_here = m->required || from_here < 0 ? this_one : g_.split({this_one, from_here});
    may_end = may_end && !m->required;
  }
  std::vector<int32_t> first;
  if (from_here >= 0) first.push_back(from_here);
  if (may_end) first.push_back(close);
  return g_.byte('{', json_.space(g_.split(first)));
}

}  // namespace fathom
