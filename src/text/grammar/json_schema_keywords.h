// The keywords of JSON Schema, and reading their values.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/grammar/grammar.h"
#include "text/python_json.h"

namespace fathom::schema {

[[noreturn]] void refuse(const std::string& where, std::string_view reason);
// As refuse, with ContradictorySchema.
[[noreturn]] void refuse_contradiction(const std::string& where, std::string_view reason);

std::string_view type_name(const OrderedJson& value);  // with its article: "an object"

// Throws for keywords that are not supported. `where`: the place of the schema.
void check_keywords(const OrderedJson& schema, const std::string& where);

// Whether the keyword restricts no value: title, description, default, $defs, x-... and the like.
bool is_annotation(std::string_view key);
// Whether SchemaGrammar knows the keyword: those of the types, and enum.
bool is_understood(std::string_view key);
// Whether SchemaCore must rewrite the keyword first (json_schema_core.h).
bool needs_rewriting(std::string_view key, const OrderedJson& value);

// Whether `type` is the name of a type or a list of such names.
bool are_types(const OrderedJson& type);
// Throws unless are_types(type). If `strict` is false, unknown names of types are allowed:
// generators have types of their own.
void refuse_types(const OrderedJson& type, const std::string& where, bool strict);

// Returns the types that a schema names, or else those that its keywords apply to; empty: any.
std::vector<std::string> types_of(const OrderedJson& schema, const std::string& where);

bool has_type(const OrderedJson& value, std::string_view type);

// Returns a count such as maxLength; nothing if it is absent.
std::optional<uint32_t> count_of(const OrderedJson& schema, std::string_view key,
                                 const std::string& where);

// Returns the value of `key`, which must be a number; null if it is absent.
const OrderedJson* number_of(const OrderedJson& schema, std::string_view key,
                             const std::string& where);

const OrderedJson* find(const OrderedJson& schema, std::string_view key);

}  // namespace fathom::schema
