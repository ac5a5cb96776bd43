// Server-sent events: how a streamed answer is written.
#pragma once

#include <string>
#include <string_view>

#include "server/http/http.h"
#include "text/python_json.h"

namespace fathom::server {

inline constexpr std::string_view kEventStream = "text/event-stream; charset=utf-8";

// Returns `value` as one line of JSON. Invalid UTF-8 in strings becomes U+FFFD.
std::string dump_json(const OrderedJson& value);

// Begins the stream of an answer, with headers that forbid proxies to buffer or store it. `quiet`
// is sent when the stream has been silent for a while; clients skip a comment.
inline constexpr std::string_view kComment = ": still working\n\n";
void begin_events(HttpReply& reply, std::string_view quiet = kComment);

// Returns an event: "data: {...}" and an empty line; with a name, "event: NAME" before it.
std::string sse_event(const OrderedJson& data);
std::string sse_event(std::string_view name, const OrderedJson& data);

}  // namespace fathom::server
