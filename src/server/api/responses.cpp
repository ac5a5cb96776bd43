// /v1/responses: OpenAI's Responses API.
#include <algorithm>
#include <charconv>
#include <utility>

#include "server/api/responses_request.h"
#include "server/api/responses_writer.h"
#include "server/http/sse.h"
#include "server/service.h"

namespace fathom::server {
namespace {

constexpr std::string_view kPath = "/v1/responses";

// An answer in flight. Kept alive by the listener of its generation.
struct Session {
  ResponsesRequest request;
  ResponseWriter writer;
  std::shared_ptr<HttpReply> reply;
  std::shared_ptr<ResponseStore> stored;
};

void remember(Session& session) {
  StoredResponse stored;
  stored.response = session.writer.response();
  stored.input = std::move(session.request.input);
  stored.conversation = std::move(session.request.history);
  // The output is read like a client's input. So a conversation gives the model the same prompt
  // whether it goes on by id or by sending all items.
  append_items(
      stored.response["output"], "output", [](const std::string&) { return std::nullopt; },
      session.request.chat.names, stored.conversation);
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

// Renders the prompt of a request that has been read. Returns false if something is wrong and has
// been answered.
bool make_ready(Service& service, ResponsesRequest& request, HttpReply& reply) {
  note_left_out(reply, request.chat);
  if (const auto failure = prepare(service, request.chat)) {
    const bool format = failure->message.starts_with("text.format");
    send_error(reply, ErrorShape::openai, *failure, format ? "text.format" : "tools");
    return false;
  }
  return true;
}

// Reads the request. Returns nothing if something is wrong and has been answered.
std::optional<ResponsesRequest> read(Service& service, ResponseStore& stored,
                                     const HttpRequest& http, HttpReply& reply) {
  const OrderedJson body = parse_json_body(http.body);
  const JsonField root(body, "");
  if (!serves_model(root, service.options)) {
    send_model_not_found(reply, root.at("model").string(), service.options);
    return std::nullopt;
  }
  return read_responses_request(body, service.options, stored, new_id("resp_"));
}

// Streaming clients look for this error in the stream, where OpenAI sends it.
void stream_too_long(const ResponsesRequest& request, const std::string& message,
                     HttpReply& reply) {
  ResponseWriter writer(request.response, {}, true, new_id);
  begin_events(reply);
  reply.write(writer.begin());
  reply.write(writer.refuse("context_length_exceeded", message));
  reply.end();
}

void create(Service& service, const std::shared_ptr<ResponseStore>& stored, const HttpRequest& http,
            const std::shared_ptr<HttpReply>& reply) {
  std::optional<ResponsesRequest> request = read(service, *stored, http, *reply);
  if (!request) return;
  const bool stream = request->chat.stream.stream;
  try {
    if (!make_ready(service, *request, *reply)) return;
    require_room(request->chat.generation, service.engine.context());
  } catch (const PromptTooLong& e) {
    if (!stream) throw;
    return stream_too_long(*request, e.what(), *reply);
  }
  GenerationRequest generation = std::move(request->chat.generation);
  ResponseWriter writer(request->response, request->chat.names, stream, new_id);
  auto session =
      std::make_shared<Session>(Session{std::move(*request), std::move(writer), reply, stored});
  const auto failure =
      start_generation(service, reply, std::move(generation),
                       [session](const GenerationEvent& event) { listen(*session, event); });
  if (failure) return send_error(*reply, ErrorShape::openai, *failure);
  if (!stream) return;
  begin_events(*reply);
  reply->write(session->writer.begin());
}

void count(Service& service, ResponseStore& stored, const HttpRequest& http, HttpReply& reply) {
  std::optional<ResponsesRequest> request = read(service, stored, http, reply);
  if (!request) return;
  request->chat.counts_only = true;
  if (!make_ready(service, *request, reply)) return;
  reply.send(200, "application/json",
             dump_json({{"object", "response.input_tokens"},
                        {"input_tokens", request->chat.generation.prompt.size()}}));
}

std::string id_of(const HttpRequest& http) { return http.path.substr(kPath.size() + 1); }

void send_unknown(HttpReply& reply, const std::string& id) {
  send_error(reply, ErrorShape::openai,
             {404, fmt::format("no stored response has the id '{}'", id)}, "response_id");
}

// A page of a list as OpenAI cuts it: `limit` items behind the one with the id `after`, the newest
// first unless `order` is asc.
OrderedJson page_of(const OrderedJson& items, const HttpRequest& http) {
  constexpr size_t kPage = 20, kMostOfPage = 100;
  std::vector<const OrderedJson*> sorted;
  for (const OrderedJson& item : items) sorted.push_back(&item);
  if (http.query_value("order") != "asc") std::reverse(sorted.begin(), sorted.end());
  const std::string_view after = http.query_value("after");
  const auto found = std::find_if(sorted.begin(), sorted.end(),
                                  [&](const OrderedJson* item) { return (*item)["id"] == after; });
  if (!after.empty() && found != sorted.end()) sorted.erase(sorted.begin(), found + 1);
  size_t limit = kPage;
  const std::string_view asked = http.query_value("limit");
  const auto [end, error] = std::from_chars(asked.data(), asked.data() + asked.size(), limit);
  const bool number = error == std::errc() && end == asked.data() + asked.size();
  if (!asked.empty() && (!number || limit < 1 || limit > kMostOfPage))
    fail("limit: expected 1 to {}, found '{}'", kMostOfPage, asked);
  const bool more = sorted.size() > limit;
  if (more) sorted.resize(limit);
  OrderedJson page = {{"object", "list"}, {"data", OrderedJson::array()}};
  for (const OrderedJson* item : sorted) page["data"].push_back(*item);
  page["first_id"] = sorted.empty() ? OrderedJson() : (*sorted.front())["id"];
  page["last_id"] = sorted.empty() ? OrderedJson() : (*sorted.back())["id"];
  page["has_more"] = more;
  return page;
}

void retrieve(ResponseStore& stored, const HttpRequest& http, HttpReply& reply) {
  constexpr std::string_view kItems = "/input_items";
  std::string id = id_of(http);
  const bool items = id.ends_with(kItems);
  if (items) id.resize(id.size() - kItems.size());
  if (http.query_value("stream") == "true") {
    return send_error(reply, ErrorShape::openai,
                      {400, "stream: stored responses are given as a whole"}, "stream");
  }
  const auto found = stored.find(id);
  if (!found) return send_unknown(reply, id);
  reply.send(200, "application/json",
             dump_json(items ? page_of(found->input, http) : found->response));
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
    answer_errors(*reply, "input", [&] { retrieve(*stored, *http, *reply); });
  });
  // Answers for paths below an existing one that this server does not have.
  router.add("POST", path + "/*", [](const Request& http, const Reply& reply) {
    const bool compact = id_of(*http) == "compact";
    send_error(*reply, ErrorShape::openai,
               {404, fmt::format("there is no {}: {}", http->path,
                                 compact ? "this server does not compact conversations: a client "
                                           "that needs shorter ones shortens them"
                                         : "responses do not run in the background here")});
  });
  router.add("DELETE", path + "/*",
             [stored](const Request& http, const Reply& reply) { erase(*stored, *http, *reply); });
}

}  // namespace fathom::server
