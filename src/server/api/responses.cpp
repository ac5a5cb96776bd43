// /v1/responses: OpenAI's Responses API.
#include <utility>

#include "server/api/responses_request.h"
#include "server/api/responses_writer.h"
#include "server/http/sse.h"
#include "server/service.h"

namespace fathom::server {
namespace {

constexpr std::string_view kPath = "/v1/responses";

// One answer under way. Kept alive by what listens to its generation.
struct Session {
  ResponsesRequest request;
  ResponseWriter writer;
  std::shared_ptr<HttpReply> reply;
  std::shared_ptr<ResponseStore> stored;
};

void remember(Session& session) {
  StoredResponse stored;
  stored.response = session.writer.response();
  stored.conversation = std::move(session.request.history);
  // Read back as a client would send it, so that both ways to go on say the same to the model.
  append_items(
      stored.response["output"], "output", [](const std::string&) { return std::nullopt; },
      stored.conversation);
  const std::string id = stored.response["id"];
  session.stored->put(id, std::move(stored));
}

void listen(Session& session, const GenerationEvent& event) {
  const bool stream = session.request.chat.stream.stream;
  std::string bytes = session.writer.feed(event);
  if (event.ended && !event.failure && session.request.store) remember(session);
  if (stream) {
    if (!bytes.empty()) session.reply->write(std::move(bytes));
    if (event.ended) session.reply->end();
  } else if (event.failure) {
    send_error(*session.reply, ErrorShape::openai, *event.failure);
  } else if (event.ended) {
    session.reply->send(200, "application/json", dump_json(session.writer.response()));
  }
}

// The request, ready to run; nothing where it has been answered with what is wrong.
std::optional<ResponsesRequest> read(Service& service, ResponseStore& stored,
                                     const HttpRequest& http, HttpReply& reply) {
  const OrderedJson body = parse_json_body(http.body);
  const JsonField root(body, "");
  if (!serves_model(root, service.options)) {
    send_model_not_found(reply, root.at("model").string(), service.options);
    return std::nullopt;
  }
  ResponsesRequest request = read_responses_request(body, service.options, stored, new_id("resp_"));
  if (const auto failure = prepare(service, request.chat)) {
    const bool tools = request.chat.form.kind == AnswerForm::Kind::tool_calls;
    send_error(reply, ErrorShape::openai, *failure, tools ? "tools" : "text.format");
    return std::nullopt;
  }
  // Before the engine's own check, which does not know what the limit is called here.
  const GenerationRequest& generation = request.chat.generation;
  const auto prompt = static_cast<int64_t>(generation.prompt.size());
  const int64_t left = service.engine.context() - prompt;
  if (left > 0 && generation.max_tokens > left) {
    fail("max_output_tokens: the prompt has {} tokens and leaves room for {}, found {}", prompt,
         left, generation.max_tokens);
  }
  return request;
}

void create(Service& service, const std::shared_ptr<ResponseStore>& stored, const HttpRequest& http,
            const std::shared_ptr<HttpReply>& reply) {
  std::optional<ResponsesRequest> request = read(service, *stored, http, *reply);
  if (!request) return;
  GenerationRequest generation = std::move(request->chat.generation);
  const bool stream = request->chat.stream.stream;
  ResponseWriter writer(request->response, stream, new_id);
  auto session =
      std::make_shared<Session>(Session{std::move(*request), std::move(writer), reply, stored});
  const auto failure =
      start_generation(service, reply, std::move(generation),
                       [session](const GenerationEvent& event) { listen(*session, event); });
  if (failure) return send_error(*reply, ErrorShape::openai, *failure);
  if (!stream) return;
  reply->begin(200, kEventStream, {{"Cache-Control", "no-cache"}});
  reply->write(session->writer.begin());
}

void count(Service& service, ResponseStore& stored, const HttpRequest& http, HttpReply& reply) {
  const std::optional<ResponsesRequest> request = read(service, stored, http, reply);
  if (!request) return;
  reply.send(200, "application/json",
             dump_json({{"object", "response.input_tokens"},
                        {"input_tokens", request->chat.generation.prompt.size()}}));
}

std::string id_of(const HttpRequest& http) { return http.path.substr(kPath.size() + 1); }

void send_unknown(HttpReply& reply, const std::string& id) {
  send_error(reply, ErrorShape::openai,
             {404, fmt::format("no stored response has the id '{}'", id)}, "response_id");
}

void retrieve(ResponseStore& stored, const HttpRequest& http, HttpReply& reply) {
  const std::string id = id_of(http);
  if (http.query_value("stream") == "true") {
    return send_error(reply, ErrorShape::openai,
                      {400, "stream: stored responses are given as a whole"}, "stream");
  }
  const auto found = stored.find(id);
  if (!found) return send_unknown(reply, id);
  reply.send(200, "application/json", dump_json(found->response));
}

void erase(ResponseStore& stored, const HttpRequest& http, HttpReply& reply) {
  const std::string id = id_of(http);
  if (!stored.erase(id)) return send_unknown(reply, id);
  reply.send(200, "application/json",
             dump_json({{"id", id}, {"object", "response.deleted"}, {"deleted", true}}));
}

}  // namespace

void add_responses_routes(Router& router, Service& service) {
  const auto stored = std::make_shared<ResponseStore>(service.options.max_stored_responses);
  using Request = std::shared_ptr<const HttpRequest>;
  using Reply = std::shared_ptr<HttpReply>;
  const std::string path(kPath);
  router.add("POST", path, [&service, stored](const Request& http, const Reply& reply) {
    answer_errors(*reply, "input", [&] { create(service, stored, *http, reply); });
  });
  router.add("POST", path + "/input_tokens",
             [&service, stored](const Request& http, const Reply& reply) {
               answer_errors(*reply, "input", [&] { count(service, *stored, *http, *reply); });
             });
  router.add("GET", path + "/*", [stored](const Request& http, const Reply& reply) {
    retrieve(*stored, *http, *reply);
  });
  router.add("DELETE", path + "/*",
             [stored](const Request& http, const Reply& reply) { erase(*stored, *http, *reply); });
}

}  // namespace fathom::server
