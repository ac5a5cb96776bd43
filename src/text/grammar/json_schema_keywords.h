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

// Refuses keywords that are not understood. `where` leads to the schema.
void check_keywords(const OrderedJson& schema, const std::string& where);

// A keyword that restricts no value: title, description, default, $defs, x-... and the like.
bool is_annotation(std::string_view key);
// A keyword of the types and of enum that the grammar of schemas knows.
bool is_understood(std::string_view key);
// A keyword that has to be put in other words first (json_schema_core.h).
bool needs_rewriting(std::string_view key, const OrderedJson& value);

// Whether `type` is the name of a type or a list of such names.
bool are_types(const OrderedJson& type);
// Refuses what is not, unless it is a text that is only unknown and `strict` is false: generators
// have types of their own.
void refuse_types(const OrderedJson& type, const std::string& where, bool strict);

// The types a schema names, or that its keywords are about; empty: any.
std::vector<std::string> types_of(const OrderedJson& schema, const std::string& where);

bool has_type(const OrderedJson& value, std::string_view type);

// A count such as maxLength; nothing if it is absent.
std::optional<uint32_t> count_of(const OrderedJson& schema, std::string_view key,
                                 const std::string& where);

// Checks that the value, if there is one, is a number; null if there is none.
const OrderedJson* number_of(const OrderedJson& schema, std::string_view key,
                             const std::string& where);

const OrderedJson* find(const OrderedJson& schema, std::string_view key);

}  // namespace fathom::schema
