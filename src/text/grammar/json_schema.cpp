#include "text/grammar/json_schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "base/check.h"
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

int32_t SchemaGrammar::root(int32_t next) {
  if (root_ == false) refuse(root_where_, "no value follows the schema false");
  return value(root_, root_where_, Want::json, next);
}

int32_t SchemaGrammar::value_inside(const OrderedJson& schema, const std::string& where, Want want,
                                    int32_t next) {
  static const OrderedJson any_value = OrderedJson::object();
  if (schema.is_object() && find(schema, "allOf")) return merged(schema, where, want, next);
  const OrderedJson& core = core_.of(schema, where);
  if (core == false) return g_.reserve();
  const OrderedJson& s = core == true ? any_value : core;
  if (find(s, "$ref")) return reference(s, where, want, next);
  if (find(s, "anyOf") || find(s, "oneOf")) return any_of(s, where, want, next);
  if (find(s, "enum")) return enumeration(s, where, want, next);

  std::vector<std::string> types = schema::types_of(s, where);
  if (types.empty()) {
    if (want == Want::json) return json_.value(next);
    types = {"object", "array", "string", "number", "boolean", "null"};
  }
  std::vector<int32_t> ways;
  for (const std::string& type : types) {
    if ((type == "string") ? want == Want::not_string : want == Want::raw_string) continue;
    ways.push_back(of_type(type, s, where, want, next));
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
  if (levels_ == kMaxLevels) {
    core_.leave_out(where, fmt::format("objects and arrays are nested more than {} levels deep (a "
                                       "$ref starts anew)",
                                       kMaxLevels));
    if (type == "object") return json_.object(next);
    return json_.list(
        '[', ']', [&](int32_t after) { return json_.value(after); }, next);
  }
  ++levels_;
  const int32_t node =
      type == "array" ? array(schema, where, next) : object(members_of(schema, where), next);
  --levels_;
  return node;
}

// A reference becomes a rule of its own that is made later, since it may lead back to itself.
int32_t SchemaGrammar::reference(const OrderedJson& schema, const std::string& where, Want want,
                                 int32_t next) {
  const auto [target, place] = core_.target_of(schema, where);
  const auto [at, is_new] = rules_.try_emplace({target, want}, -1);
  if (is_new) {
    if (rules_.size() + merged_rules_.size() > kMaxReferences)
      refuse(where, fmt::format("references to more than {} schemas in all", kMaxReferences));
    at->second = g_.add_rule(place);
    pending_.push_back({at->second, target, place, want, choices_ > 0});
  }
  return g_.call(at->second, next);
}

// Merged schemas are rules, too: references in the parts may lead to merging the same parts again.
int32_t SchemaGrammar::merged(const OrderedJson& schema, const std::string& where, Want want,
                              int32_t next) {
  const auto [at, is_new] = merged_rules_.try_emplace({schema.dump(), want}, -1);
  if (is_new) {
    if (rules_.size() + merged_rules_.size() > kMaxReferences)
      refuse(where, fmt::format("references to more than {} schemas in all", kMaxReferences));
    at->second = g_.add_rule(where);
    pending_.push_back({at->second, &core_.of(schema, where), where, want, choices_ > 0});
  }
  return g_.call(at->second, next);
}

void SchemaGrammar::finish() {
  while (!pending_.empty()) {
    const Pending p = std::move(pending_.front());
    pending_.pop_front();
    choices_ = p.of_choice;
    try {
      g_.set_start(p.rule, value(*p.schema, p.where, p.want, Grammar::kEnd));
    } catch (const ContradictorySchema&) {
      if (core_.strict() || !p.of_choice) throw;
      levels_ = 0;
      g_.set_start(p.rule, g_.reserve());  // the branches that refer to it lead nowhere
    }
  }
}

int32_t SchemaGrammar::choice(size_t count, const std::function<int32_t(size_t)>& branch) {
  std::vector<int32_t> ways;
  std::optional<ContradictorySchema> first;
  const int levels = levels_;
  choices_ += count > 1;
  for (size_t i = 0; i < count; ++i) {
    try {
      ways.push_back(branch(i));
    } catch (const ContradictorySchema& e) {
      if (core_.strict()) throw;
      levels_ = levels;
      if (!first) first = e;
    }
  }
  choices_ -= count > 1;
  if (ways.empty() && first) throw *first;
  return g_.split(ways);
}

int32_t SchemaGrammar::any_of(const OrderedJson& schema, const std::string& where, Want want,
                              int32_t next) {
  const char* key = find(schema, "anyOf") ? "anyOf" : "oneOf";
  const OrderedJson& branches = *find(schema, key);
  if (!branches.is_array() || branches.empty())
    refuse(where + "." + key, "expected a list of one schema or more");
  return choice(branches.size(), [&](size_t i) {
    return value(branches[i], fmt::format("{}.{}[{}]", where, key, i), want, next);
  });
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
  if (values.size() > 1) enum_values_ += values.size();  // a constant is none
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

// Whether the text would end the tag that it is written in.
bool breaks_tags(const std::string& text) {
  std::string bar;
  append_utf8(bar, kBar);
  return text.find("<" + bar) != text.npos || text.find("</" + bar) != text.npos;
}

}  // namespace

int32_t SchemaGrammar::enumeration(const OrderedJson& schema, const std::string& where, Want want,
                                   int32_t next) {
  const OrderedJson& values = *find(schema, "enum");
  const std::string place = where + ".enum";
  if (!values.is_array() || values.empty()) refuse(place, "expected a list of one value or more");
  check_enum_size(values, place);
  std::vector<std::string> texts;
  std::vector<int32_t> ways;
  for (const OrderedJson& v : values) {
    if (v.is_string() ? want == Want::not_string : want == Want::raw_string) continue;
    if (want == Want::raw_string) {
      if (breaks_tags(v.get_ref<const std::string&>())) {
        core_.leave_out(place,
                        "a value holds the beginning of a marker (< and U+FF5C), which this "
                        "model's tool calls cannot carry");
        continue;
      }
      texts.push_back(v.get<std::string>());
    } else if (v.is_string()) {
      texts.push_back("\"" + json_spelling(v.get_ref<const std::string&>()) + "\"");
    } else {
      if (depth_of(v, kMaxDepth + 1) > kMaxDepth)
        refuse(place, fmt::format("a value is nested more than {} deep", kMaxDepth));
      ways.push_back(json_.constant(v, next));
    }
  }
  if (!texts.empty()) ways.push_back(g_.any_of(std::move(texts), next));
  return ways.empty() ? g_.reserve() : g_.split(ways);
}

}  // namespace fathom
