// What objects a schema allows: their members, and how they are written.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

#include "text/grammar/grammar_regex.h"
#include "text/grammar/json_schema.h"
#include "text/grammar/json_schema_keywords.h"

namespace fathom {

using schema::count_of;
using schema::find;
using schema::refuse;

namespace {

constexpr int kMaxRootDepth = 16;  // of anyOf around the arguments of a tool

const OrderedJson kAny = true;

const OrderedJson* checked_object(const OrderedJson& schema, const char* key,
                                  const std::string& where) {
  const OrderedJson* value = find(schema, key);
  if (value && !value->is_object())
    refuse(fmt::format("{}.{}", where, key),
           fmt::format("expected an object, found {}", schema::type_name(*value)));
  return value;
}

bool says_nothing(const OrderedJson& names) {
  return names == true ||
         (names.is_object() && (names.empty() || names == OrderedJson{{"type", "string"}}));
}

}  // namespace

SchemaGrammar::Members SchemaGrammar::members_of(const OrderedJson& schema,
                                                 const std::string& where) {
  Members members;
  const OrderedJson* properties = checked_object(schema, "properties", where);
  const OrderedJson* additional = find(schema, "additionalProperties");
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
  // An object schema that says nothing about properties allows any object; one with an empty list
  // allows {}.
  if (members.list.empty() && (additional ? *additional != false : properties == nullptr)) {
    members.open = true;
    members.values = additional && additional->is_object() ? additional : nullptr;
    members.values_where = where + ".additionalProperties";
  }
  name_members(schema, where, members);
  require_members(schema, where, members);
  // An optional member without an allowed value is never written.
  std::erase_if(members.list, [&](const Member& m) {
    return !m.required && (*m.schema == false || core_.of(*m.schema, m.where) == false);
  });
  count_members(schema, where, members);
  return members;
}

// Applies patternProperties and propertyNames, which describe names by patterns.
void SchemaGrammar::name_members(const OrderedJson& schema, const std::string& where,
                                 Members& members) {
  const OrderedJson* patterns = checked_object(schema, "patternProperties", where);
  if (patterns && !patterns->empty()) {
    const std::string place = where + ".patternProperties";
    if (!members.list.empty() || patterns->size() > 1) {
      core_.leave_out(place, "enforced only as a single pattern without properties");
    }
    if (members.list.empty()) {
      const auto only = patterns->begin();
      members.open = true;
      members.names_pattern = only.key();
      members.names_where = place;
      members.values = &only.value();
      members.values_where = place + "." + only.key();
    }
  }
  const OrderedJson* names = find(schema, "propertyNames");
  if (!names || says_nothing(*names)) return;
  const std::string place = where + ".propertyNames";
  const OrderedJson& core = core_.of_type(*names, "string", place);
  const OrderedJson* values = core.is_object() ? find(core, "enum") : nullptr;
  if (values && values->is_array()) {
    const auto is_one = [&](const Member& m) {
      return std::find(values->begin(), values->end(), m.name) != values->end();
    };
    std::erase_if(members.list, [&](const Member& m) { return !is_one(m); });
    for (const OrderedJson& name : *values) {
      if (!members.open) break;
      members.list.push_back({name.get<std::string>(), members.values ? members.values : &kAny,
                              false, members.values_where});
    }
    members.open = false;
  } else if (core != true && members.open && members.names_pattern.empty()) {
    members.names = &core;
    members.names_where = place;
  } else if (core != true) {
    core_.leave_out(place, "enforced only without properties, or with an enum of names");
  }
}

void SchemaGrammar::require_members(const OrderedJson& schema, const std::string& where,
                                    Members& members) {
  const OrderedJson* required = find(schema, "required");
  if (!required) return;
  if (!required->is_array())
    refuse(where + ".required",
           fmt::format("expected a list, found {}", schema::type_name(*required)));
  std::map<std::string, size_t> by_name;
  for (size_t i = 0; i < members.list.size(); ++i) by_name.emplace(members.list[i].name, i);
  const OrderedJson* additional = find(schema, "additionalProperties");
  for (const OrderedJson& name : *required) {
    const bool text = name.is_string();
    const auto at = text ? by_name.find(name.get<std::string>()) : by_name.end();
    if (at != by_name.end()) {
      members.list[at->second].required = true;
      continue;
    }
    if (!text || (additional && *additional == false)) {
      core_.leave_out(
          where + ".required",
          fmt::format("{} is not the name of one of the properties", name.dump(-1, ' ', true)));
      continue;
    }
    // A required member that is not described gets the schema of other members.
    by_name.emplace(name.get<std::string>(), members.list.size());
    members.list.push_back({name.get<std::string>(), additional ? additional : &kAny, true,
                            where + ".additionalProperties"});
    members.open = false;
  }
}

void SchemaGrammar::count_members(const OrderedJson& schema, const std::string& where,
                                  Members& members) {
  const uint32_t min = count_of(schema, "minProperties", where).value_or(0);
  const uint32_t max = count_of(schema, "maxProperties", where).value_or(Grammar::kUnbounded);
  if (min > max)
    schema::refuse_contradiction(
        where, fmt::format("minProperties {} is more than maxProperties {}", min, max));
  if (members.open) {
    members.min = min;
    members.max = max;
    return;
  }
  const auto required = static_cast<uint32_t>(std::count_if(
      members.list.begin(), members.list.end(), [](const Member& m) { return m.required; }));
  members.not_empty = min == 1 && required == 0;
  if (min > std::max(required, 1u)) {
    core_.leave_out(where + ".minProperties", "use required");
  }
  if (max < members.list.size()) {
    core_.leave_out(where + ".maxProperties", "use properties and additionalProperties: false");
  }
}

std::vector<SchemaGrammar::Members> SchemaGrammar::root_objects() {
  std::vector<Members> objects;
  if (!root_.is_object())
    refuse(root_where_,
           fmt::format("expected the schema of an object, found {}", schema::type_name(root_)));
  add_root_objects(root_, root_where_, 0, objects);
  if (objects.empty()) refuse(root_where_ + ".type", "expected \"object\"");
  return objects;
}

void SchemaGrammar::add_root_objects(const OrderedJson& schema, const std::string& where, int depth,
                                     std::vector<Members>& objects) {
  const OrderedJson& core = core_.of_type(schema, "object", where);
  if (core == false) return;
  const OrderedJson* branches = find(core, "anyOf");
  if (!branches) {
    if (find(core, "enum"))
      refuse(where + ".enum",
             "not supported here; expected the schema of an object with properties");
    // Merged schemas may have no type in common: then no object is possible.
    const OrderedJson* type = find(core, "type");
    if (type && type->is_array() && type->empty()) return;
    objects.push_back(members_of(core, where));
    return;
  }
  if (depth >= kMaxRootDepth || objects.size() + branches->size() > kMaxRootObjects) {
    refuse(where,
           fmt::format("arguments that may be written in more than {} ways are not supported",
                       kMaxRootObjects));
  }
  const size_t before = objects.size();
  std::optional<ContradictorySchema> first;
  for (size_t i = 0; i < branches->size(); ++i) {
    try {
      add_root_objects((*branches)[i], fmt::format("{}.anyOf[{}]", where, i), depth + 1, objects);
    } catch (const ContradictorySchema& e) {
      if (core_.strict()) throw;
      if (!first) first = e;
    }
  }
  if (objects.size() == before && first) throw *first;
}

int32_t SchemaGrammar::member_name(const Members& members, int32_t next) {
  if (members.names) return value(*members.names, members.names_where, Want::json, next);
  if (members.names_pattern.empty()) return json_.string(next);
  try {
    return g_.byte('"', matching(json_, members.names_pattern, Spelling::json, members.names_where,
                                 g_.byte('"', next), {}));
  } catch (const GrammarRefusal&) {
    if (core_.strict()) throw;
  }
  return json_.string(next);
}

int32_t SchemaGrammar::open_object(const Members& members, int32_t next) {
  const OrderedJson& values = members.values ? *members.values : kAny;
  const auto item = [&](int32_t after) {
    return member_name(members,
                       json_.colon(value(values, members.values_where, Want::json, after)));
  };
  if (members.min == 0 && members.max == Grammar::kUnbounded)
    return json_.list('{', '}', item, next);
  const int32_t close = g_.byte('}', next), end = json_.space(close);
  if (members.max == 0) return g_.byte('{', end);
  const int32_t more = g_.add_rule(members.values_where);
  g_.set_start(more, g_.byte(',', json_.space(item(Grammar::kEnd))));
  const uint32_t max = members.max == Grammar::kUnbounded ? members.max : members.max - 1;
  const int32_t first =
      item(max == 0 ? end : g_.repeat(more, members.min > 0 ? members.min - 1 : 0, max, end));
  return g_.byte('{', json_.space(members.min == 0 ? g_.split({first, close}) : first));
}

// Properties come in their order; those that are not required may be left out.
int32_t SchemaGrammar::object(const Members& members, int32_t next) {
  if (members.open) return open_object(members, next);
  const int32_t close = g_.byte('}', next), end = json_.space(close);
  int32_t from_here = -1;  // this property or a later one, and what follows it
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
  if (may_end && !(members.not_empty && from_here >= 0)) first.push_back(close);
  return g_.byte('{', json_.space(g_.split(first)));
}

}  // namespace fathom
