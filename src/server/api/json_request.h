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

// Parses `body`, which must be an object. Throws Error naming the byte where it is not UTF-8 or not
// JSON, or the limit (text/json_limits.h) that it exceeds.
OrderedJson parse_json_body(std::string_view body);

// Read a field that may be absent (or null, which means the same). They throw Error with the place,
// what is accepted and what was found.
double number_or(const JsonField& at, double absent, double low, double high);
int64_t integer_or(const JsonField& at, int64_t absent, int64_t low, int64_t high);
std::string string_or(const JsonField& at, std::string absent);

// Returns the text in the member `key` of `value`; empty if `value` is no object or has no such
// text.
std::string text_member(const OrderedJson& value, const char* key);

// A field that this server knows but does not support. A request may still have it with a value
// that asks for nothing: null, false, "", [], {}, or `harmless` (JSON text).
struct Unsupported {
  const char* name;
  const char* instead = "";  // what to do about it; may be empty
  const char* harmless = "";
};
// Throws Error for the first of these fields that `root` uses. Ignoring it would silently give
// another answer than the client has asked for.
void refuse_unsupported(const JsonField& root, std::initializer_list<Unsupported> fields);

// Returns the place with which an error message begins ("messages[2].content: ..."); empty if it
// has none.
std::string_view place_of(std::string_view message);

// Calls `handle`. An Error that it throws is answered with 400 in OpenAI's shape, with its place as
// `param`. PromptTooLong is answered with OpenAI's code for it and `prompt` as the field.
void answer_errors(HttpReply& reply, std::string_view prompt, const std::function<void()>& handle);

}  // namespace fathom::server
