// JSON as Python's json module reads and writes it. The models were trained on prompts with the
// text of json.dumps(value, ensure_ascii=False), so prompts need exactly that text.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace fathom {

// Keeps the order of keys, as Python's dict does.
using OrderedJson = nlohmann::ordered_json;

// ", " and ": " as separators, non-ASCII as it is, numbers as Python's repr.
std::string python_dumps(const OrderedJson& value);

}  // namespace fathom
