// Server-sent events: how a streamed answer is written.
#pragma once

#include <string>
#include <string_view>

#include "server/http/http.h"
#include "text/python_json.h"

namespace fathom::server {

inline constexpr std::string_view kEventStream = "text/event-stream; charset=utf-8";

// `value` as one line. Strings that are not UTF-8 get U+FFFD where they are broken.
std::string dump_json(const OrderedJson& value);

// Begins the stream of an answer: nobody on the way may keep it back or store it. `quiet` is what
// it says when it has had nothing to say for a while; clients skip a comment.
inline constexpr std::string_view kComment = ": still working\n\n";
void begin_events(HttpReply& reply, std::string_view quiet = kComment);

// "data: {...}", and with a name "event: NAME" in front of it; the empty line behind included.
std::string sse_event(const OrderedJson& data);
std::string sse_event(std::string_view name, const OrderedJson& data);

}  // namespace fathom::server
