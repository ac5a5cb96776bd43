// Parses the JSON body of a request within limits and reads its fields; errors name the field.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "server/http/http.h"
#include "server/router.h"
#include "text/json_limits.h"
#include "text/json_reader.h"
#include "text/python_json.h"

namespace fathom::server {

using JsonField = JsonAt<OrderedJson>;

// The object that `body` is. Throws Error naming the byte for what is not UTF-8 or not JSON, and
// the limit (text/json_limits.h) for what is beyond one.
OrderedJson parse_json_body(std::string_view body);

// Typed reading of what may be absent (or null, which means the same). They throw Error with the
// place, what is accepted and what was found.
double number_or(const JsonField& at, double absent, double low, double high);
int64_t integer_or(const JsonField& at, int64_t absent, int64_t low, int64_t high);
std::string string_or(const JsonField& at, std::string absent);

// The text that `value` has as its member `key`; empty where it is no object or has none.
std::string text_member(const OrderedJson& value, const char* key);

// A field whose meaning this server knows and does not implement. A request may still carry it with
// a value that asks for nothing: null, false, "", [], {}, or `harmless` (JSON text).
struct Unsupported {
  const char* name;
  const char* instead = "";  // what to do about it; may be empty
  const char* harmless = "";
};
// Throws Error for the first of these fields that `root` asks for. Ignoring it would silently give
// another answer than the one that was asked for.
void refuse_unsupported(const JsonField& root, std::initializer_list<Unsupported> fields);

// The place that an error message leads with ("messages[2].content: ..."); empty if it has none.
std::string_view place_of(std::string_view message);

// Answers with 400 what `handle` throws as Error, in OpenAI's shape with its place as `param`; what
// exceeds the context with OpenAI's code for it and the field it comes from, which is `prompt` for
// a prompt.
void answer_errors(HttpReply& reply, std::string_view prompt, const std::function<void()>& handle);

}  // namespace fathom::server
