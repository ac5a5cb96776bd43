// Server-sent events: how a streamed answer is written.
#pragma once

#include <string>
#include <string_view>

#include "text/python_json.h"

namespace fathom::server {

inline constexpr std::string_view kEventStream = "text/event-stream; charset=utf-8";

// `value` as one line. Strings that are not UTF-8 get U+FFFD where they are broken.
std::string dump_json(const OrderedJson& value);

// "data: {...}", and with a name "event: NAME" in front of it; the empty line behind included.
std::string sse_event(const OrderedJson& data);
std::string sse_event(std::string_view name, const OrderedJson& data);

}  // namespace fathom::server
