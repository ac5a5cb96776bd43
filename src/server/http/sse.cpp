#include "server/http/sse.h"

namespace fathom::server {

std::string dump_json(const OrderedJson& value) {
  return value.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

void begin_events(HttpReply& reply, std::string_view quiet) {
  // The second header is nginx's, which otherwise collects an answer before it passes it on.
  reply.begin(200, kEventStream, {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}});
  reply.keep_alive(std::string(quiet));
}

std::string sse_event(const OrderedJson& data) { return "data: " + dump_json(data) + "\n\n"; }

std::string sse_event(std::string_view name, const OrderedJson& data) {
  return "event: " + std::string(name) + "\n" + sse_event(data);
}

}  // namespace fathom::server
