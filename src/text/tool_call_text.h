// The inside of one tool call, as each encoding writes it.
#pragma once

#include <optional>
#include <string_view>

#include "text/messages.h"

namespace fathom {

// Arguments beyond text/json_limits.h are no call: nothing behind here could read them.
// v3.1: {name}<｜tool▁sep｜>{arguments}. Nothing if it is not that, with a JSON object at the end.
std::optional<ToolCall> parse_call_v31(std::string_view body);

// v3.2: {name}">, then parameter tags, made into one JSON object in their order.
std::optional<ToolCall> parse_call_v32(std::string_view body);

}  // namespace fathom
