// /v1/messages: Anthropic's Messages API.
#include <utility>

#include "server/api/anthropic_request.h"
#include "server/api/anthropic_writer.h"
#include "server/http/sse.h"
#include "server/service.h"

namespace fathom::server {
namespace {

// An answer in flight. Kept alive by the listener of its generation.
struct Session {
  MessageWriter writer;
  bool stream;
  std::shared_ptr<HttpReply> reply;
};

void listen(Session& session, const GenerationEvent& event) {
  std::string bytes = session.writer.feed(event);
  if (session.stream) {
    if (!bytes.empty()) session.reply->write(std::move(bytes));
    if (event.ended) session.reply->end();
  } else if (event.failure) {
    send_error(*session.reply, ErrorShape::anthropic, *event.failure);
  } else if (event.ended) {
    session.reply->send(200, "application/json", dump_json(session.writer.message()));
  }
}

// Anthropic's SDK recognises this error, and then sends the whole conversation with each request.
void send_unsupported_thread(HttpReply& reply) {
  const Failure failure{400, "thread: this server keeps no conversations: send all messages"};
  OrderedJson body = OrderedJson::parse(error_body(ErrorShape::anthropic, failure));
  body["error"]["details"] = {{"error_code", "thread_unsupported_request"},
                              {"unsupported", {"thread"}}};
  reply.send(failure.status, "application/json", dump_json(body));
}

// Reads and prepares the request. Returns nothing if something is wrong and has been answered.
std::optional<MessagesRequest> read(Service& service, const OrderedJson& body, bool count_only,
                                    HttpReply& reply) {
  const JsonField root(body, "");
  if (!serves_model(root, service.options)) {
    send_error(reply, ErrorShape::anthropic,
               {404, fmt::format("model: '{}' is not served here: expected '{}'",
                                 root.at("model").string(),
                                 fmt::join(service.options.model_names, "' or '"))});
    return std::nullopt;
  }
  if (!root.at("thread").null()) {
    send_unsupported_thread(reply);
    return std::nullopt;
  }
  MessagesRequest request = read_messages_request(body, service.options, count_only);
  note_left_out(reply, request.chat);
  if (const auto failure = prepare(service, request.chat)) {
    send_error(reply, ErrorShape::anthropic, *failure);
    return std::nullopt;
  }
  return request;
}

void create(Service& service, const HttpRequest& http, const std::shared_ptr<HttpReply>& reply) {
  const OrderedJson body = parse_json_body(http.body);
  std::optional<MessagesRequest> request = read(service, body, false, *reply);
  if (!request) return;
  GenerationRequest generation = std::move(request->chat.generation);
  generation.id = new_id("msg_");
  const auto prompt_tokens = static_cast<int64_t>(generation.prompt.size());

  MessageHead head;
  head.id = generation.id;
  head.model = service.options.model_names.front();
  head.prompt_tokens = prompt_tokens;
  head.stream = request->chat.stream.stream;
  head.omit_thinking = request->omit_thinking;
  const bool stream = head.stream;
  auto session =
      std::make_shared<Session>(Session{MessageWriter(std::move(head), new_id), stream, reply});
  const auto failure =
      start_generation(service, reply, std::move(generation),
                       [session](const GenerationEvent& event) { listen(*session, event); });
  if (failure) return send_error(*reply, ErrorShape::anthropic, *failure);
  if (!stream) return;
  begin_events(*reply, sse_event("ping", OrderedJson{{"type", "ping"}}));
  reply->write(session->writer.begin());
}

void count(Service& service, const HttpRequest& http, HttpReply& reply) {
  const OrderedJson body = parse_json_body(http.body);
  const std::optional<MessagesRequest> request = read(service, body, true, reply);
  if (!request) return;
  reply.send(200, "application/json",
             dump_json({{"input_tokens", request->chat.generation.prompt.size()}}));
}

// As answer_errors, in this protocol's shape.
template <class Handle>
void answer_message_errors(HttpReply& reply, Handle handle) {
  try {
    handle();
  } catch (const PromptTooLong& e) {
    // The words that clients of this protocol look for.
    send_error(reply, ErrorShape::anthropic,
               Failure{400, fmt::format("prompt is too long: {} tokens > {} maximum", e.tokens,
                                        e.context - 1)});
  } catch (const Error& e) {
    send_error(reply, ErrorShape::anthropic, Failure{400, e.what()});
  }
}

}  // namespace

void add_anthropic_routes(Router& router, Service& service) {
  using Request = std::shared_ptr<const HttpRequest>;
  using Reply = std::shared_ptr<HttpReply>;
  const Router::Route route{ErrorShape::anthropic};
  router.add(
      "POST", "/v1/messages",
      [&service](Request http, Reply reply) {
        answer_message_errors(*reply, [&] { create(service, *http, reply); });
      },
      route);
  router.add(
      "POST", "/v1/messages/count_tokens",
      [&service](Request http, Reply reply) {
        answer_message_errors(*reply, [&] { count(service, *http, *reply); });
      },
      route);
}

}  // namespace fathom::server
