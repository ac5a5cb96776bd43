// Typed access to a JSON document with errors that name the file and the key:
//   "models/x/tokenizer.json: model.vocab: expected an object, found a string".
#pragma once

#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/file_kind.h"
#include "base/json_fault.h"

namespace fathom {

// One value of a document and the path to it. Refers to the document, which must outlive it; cheap
// to copy.
template <class Json>
class JsonAt {
 public:
  JsonAt(const Json& value, std::string path) : value_(&value), path_(std::move(path)) {}

  const Json& value() const { return *value_; }
  const std::string& path() const { return path_; }

  // The member `key`; an absent one reads as null.
  JsonAt at(std::string_view key) const {
    static const Json null_value;
    expect(value_->is_object(), "an object");
    const auto it = value_->find(std::string(key));
    return {it == value_->end() ? null_value : *it, join(key)};
  }
  JsonAt at(size_t index) const { return {(*value_)[index], path_ + fmt::format("[{}]", index)}; }

  bool null() const { return value_->is_null(); }
  size_t array_size() const {
    expect(value_->is_array(), "an array");
    return value_->size();
  }
  const Json& object() const {
    expect(value_->is_object(), "an object");
    return *value_;
  }
  const std::string& string() const {
    expect(value_->is_string(), "a string");
    return value_->template get_ref<const std::string&>();
  }
  bool boolean() const {
    expect(value_->is_boolean(), "true or false");
    return value_->template get<bool>();
  }
  bool boolean_or(bool absent) const { return null() ? absent : boolean(); }
  // 2048.0 is an integer, too: tools that keep all numbers as floats write it that way.
  int32_t integer(int32_t low, int32_t high) const {
    if (value_->is_number_float()) {
      const auto number = value_->template get<double>();
      expect(std::trunc(number) == number, "an integer");
      if (!(number >= low && number <= high))
        fail("{}: expected {} to {}, found {}", path_, low, high, value_->dump());
      return static_cast<int32_t>(number);
    }
    expect(value_->is_number_integer(), "an integer");
    // A number past int64 would wrap to a negative one; it is out of range either way.
    const bool huge = value_->is_number_unsigned() &&
                      value_->template get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
    const auto number = huge ? INT64_MAX : value_->template get<int64_t>();
    if (number < low || number > high) {
      fail("{}: expected {} to {}, found {}", path_, low, high, value_->dump());
    }
    return static_cast<int32_t>(number);
  }

  void expect(bool condition, std::string_view wanted) const {
    if (condition) return;
    if (null()) fail("{}: expected {}, found nothing", path_, wanted);
    fail("{}: expected {}, found {} {}", path_, wanted,
         value_->is_array() || value_->is_object() || value_->is_number_integer() ? "an" : "a",
         value_->is_number_integer() ? "integer" : value_->type_name());
  }

 private:
  // The document's own path ends in ": "; keys after the first are joined by dots.
  std::string join(std::string_view key) const {
    const bool root = path_.ends_with(": ");
    return fmt::format("{}{}{}", path_, root || path_.empty() ? "" : ".", key);
  }

  const Json* value_;
  std::string path_;
};

// Parses a whole document; throws Error "{where}: not valid JSON: ..." (base/json_fault.h).
template <class Json>
Json parse_json(std::string_view bytes, std::string_view where) {
  const std::string_view text = without_byte_order_mark(bytes, where);
  try {
    return Json::parse(text);
  } catch (const nlohmann::json::exception&) {
    fail_json(text, where);
  }
}

}  // namespace fathom
