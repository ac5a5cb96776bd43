#include "server/api/json_request.h"

#include <cmath>

#include "text/utf8.h"

namespace fathom::server {
namespace {

bool asks_for_nothing(const OrderedJson& value) {
  if (value.is_null() || value == false) return true;
  return (value.is_string() || value.is_structured()) &&
         (value.is_string() ? value.get_ref<const std::string&>().empty() : value.empty());
}

}  // namespace

OrderedJson parse_json_body(std::string_view body) {
  if (body.empty()) fail("the body is empty: expected a JSON object");
  require_utf8(body, "the body");
  if (const std::string beyond = beyond_json_limits(body); !beyond.empty())
    fail("the body: {}", beyond);
  OrderedJson document = parse_json<OrderedJson>(body, "the body");
  if (!document.is_object())
    fail("the body: expected a JSON object, found {} {}", document.is_array() ? "an" : "a",
         document.type_name());
  return document;
}

double number_or(const JsonField& at, double absent, double low, double high) {
  if (at.null()) return absent;
  at.expect(at.value().is_number(), "a number");
  const double number = at.value().get<double>();
  if (!(number >= low && number <= high))
    fail("{}: expected {} to {}, found {}", at.path(), low, high, at.value().dump());
  return number;
}

int64_t integer_or(const JsonField& at, int64_t absent, int64_t low, int64_t high) {
  if (at.null()) return absent;
  // 10.0 is an integer to JSON, and what clients without an integer type send.
  const double real = at.value().is_number_float() ? at.value().get<double>() : 0;
  at.expect(at.value().is_number() && real == std::floor(real), "an integer");
  constexpr double kEdge = 0x1p63;  // of int64: beyond it the conversion is undefined
  const bool huge = !(real >= -kEdge && real < kEdge) ||
                    (at.value().is_number_unsigned() &&
                     at.value().get<uint64_t>() > static_cast<uint64_t>(INT64_MAX));
  const int64_t number = huge ? 0 : at.value().get<int64_t>();
  if (huge || number < low || number > high)
    fail("{}: expected {} to {}, found {}", at.path(), low, high, at.value().dump());
  return number;
}

std::string string_or(const JsonField& at, std::string absent) {
  if (at.null()) return absent;
  return at.string();
}

std::string text_member(const OrderedJson& value, const char* key) {
  if (!value.is_object()) return {};
  const auto it = value.find(key);
  return it != value.end() && it->is_string() ? it->get<std::string>() : std::string();
}

void refuse_unsupported(const JsonField& root, std::initializer_list<Unsupported> fields) {
  for (const Unsupported& field : fields) {
    const JsonField at = root.at(field.name);
    if (asks_for_nothing(at.value())) continue;
    if (*field.harmless != 0 && at.value() == OrderedJson::parse(field.harmless)) continue;
    fail("{}: this server does not support it{}{}", at.path(), *field.instead ? ": " : "",
         field.instead);
  }
}

std::string_view place_of(std::string_view message) {
  const size_t end = message.find(": ");
  if (end == message.npos || end == 0) return {};
  const std::string_view place = message.substr(0, end);
  const std::string_view allowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.[]-$";
  return place.find_first_not_of(allowed) == place.npos ? place : std::string_view();
}

}  // namespace fathom::server
