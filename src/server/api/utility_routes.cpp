// Routes that are about the server or the tokenizer: /tokenize, /detokenize, /tokenizer_info,
// /health, /ping, /version, /metrics.
#include "base/version.h"
#include "server/api/chat_turn.h"
#include "server/api/openai_format.h"
#include "server/http/sse.h"
#include "server/service.h"

namespace fathom::server {
namespace {

constexpr std::string_view kJson = "application/json";

std::vector<int32_t> ids_to_show(const Service& service, const OrderedJson& body) {
  const JsonField root(body, "");
  if (root.at("messages").null()) {
    const bool special = root.at("add_special_tokens").boolean_or(true);
    return service.tokenizer.encode(root.at("prompt").string(), special);
  }
  if (!root.at("prompt").null()) fail("prompt: give either prompt or messages");
  ChatRequest chat;
  chat.counts_only = true;
  read_conversation(root, service.options.encoding, chat);
  apply_tools(read_tool_use(root, Protocol::chat), chat);
  apply_format(root, Protocol::chat, service.options, chat);
  chat.thinking = read_thinking(root);
  return chat_prompt(service, chat).ids;
}

void handle_tokenize(const Service& service, const HttpRequest& request, HttpReply& reply) {
  const OrderedJson body = parse_json_body(request.body);
  const JsonField root(body, "");
  if (!serves_model(root, service.options))
    return send_model_not_found(reply, root.at("model").string(), service.options);
  const bool with_texts = root.at("return_token_strs").boolean_or(false);
  const std::vector<int32_t> ids = ids_to_show(service, body);
  OrderedJson json;
  json["count"] = ids.size();
  json["max_model_len"] = service.engine.context();
  json["tokens"] = ids;
  json["token_strs"] = nullptr;
  if (with_texts) {
    json["token_strs"] = OrderedJson::array();
    for (const int32_t id : ids) json["token_strs"].push_back(token_text(service.tokenizer, id));
  }
  reply.send(200, kJson, dump_json(json));
}

void handle_detokenize(const Service& service, const HttpRequest& request, HttpReply& reply) {
  const OrderedJson body = parse_json_body(request.body);
  const JsonField root(body, "");
  if (!serves_model(root, service.options))
    return send_model_not_found(reply, root.at("model").string(), service.options);
  const JsonField tokens = root.at("tokens");
  std::vector<int32_t> ids;
  for (size_t i = 0; i < tokens.array_size(); ++i)
    ids.push_back(tokens.at(i).integer(0, service.options.vocab - 1));
  OrderedJson json;
  json["prompt"] = service.tokenizer.decode(ids);
  reply.send(200, kJson, dump_json(json));
}

void handle_health(const Service& service, HttpReply& reply) {
  if (service.engine.snapshot().failed)
    return send_error(reply, ErrorShape::openai,
                      {503, "the engine has failed: nothing is served any more"});
  reply.send(200, "text/plain; charset=utf-8", "");
}

// Paths that clients of the three protocols may ask for and that this server does not have.
void add_absent_routes(Router& router) {
  const std::string below = "paths begin with /v1 here, so that the base URL ends in it";
  const std::string generates = "this server's model generates text";
  const std::pair<const char*, std::string> absent[] = {
      {"/v1/embeddings", generates + " and makes no embeddings"},
      {"/v1/rerank", generates + " and ranks nothing"},
      {"/v1/score", generates + " and ranks nothing"},
      {"/v1/moderations", generates + " and moderates nothing"},
      {"/v1/images", generates + " and makes no images"},
      {"/v1/videos", generates + " and makes no videos"},
      {"/v1/audio", generates + " and neither hears nor speaks"},
      {"/v1/realtime", generates + ": stream /v1/responses or /v1/chat/completions"},
      {"/v1/files", "this server keeps no files"},
      {"/v1/uploads", "this server keeps no files"},
      {"/v1/batches", "this server has no batches: send the requests side by side"},
      {"/v1/messages/batches", "this server has no batches: send the requests side by side"},
      {"/v1/vector_stores", "this server keeps no files"},
      {"/v1/containers", "no code is run here"},
      {"/v1/assistants", "use /v1/responses"},
      {"/v1/threads", "use /v1/responses"},
      {"/v1/conversations", "use previous_response_id of /v1/responses"},
      {"/v1/fine_tuning", "nothing is trained here"},
      {"/v1/complete", "use /v1/messages"},
      {"/v1/engines", "use /v1/models"},
      {"/chat", below},
      {"/completions", below},
      {"/responses", below},
      {"/messages", below},
      {"/models", below},
      {"/v1/v1", "the base URL of the client and its paths have a /v1 each: one is enough"},
      {"/api", "of Ollama's protocol there is nothing here: use /v1/chat/completions"},
  };
  for (const auto& [path, why] : absent) router.add_absent(path, why);
}

}  // namespace

void add_utility_routes(Router& router, Service& service) {
  add_absent_routes(router);
  router.add("POST", "/tokenize", [&service](const auto& request, const auto& reply) {
    answer_errors(*reply, "messages", [&] { handle_tokenize(service, *request, *reply); });
  });
  router.add("POST", "/detokenize", [&service](const auto& request, const auto& reply) {
    answer_errors(*reply, "tokens", [&] { handle_detokenize(service, *request, *reply); });
  });
  router.add("GET", "/tokenizer_info", [&service](const auto&, const auto& reply) {
    reply->send(200, kJson, dump_json(service.options.tokenizer_info));
  });
  // Monitoring has no API key.
  const Router::Route open{.shape = ErrorShape::openai, .needs_key = false};
  const HttpHandler health = [&service](const auto&, const auto& reply) {
    handle_health(service, *reply);
  };
  router.add("GET", "/health", health, open);
  router.add("GET", "/ping", health, open);
  router.add("POST", "/ping", health, open);
  router.add(
      "GET", "/version",
      [](const auto&, const auto& reply) {
        OrderedJson json;
        json["version"] = kVersion;
        reply->send(200, kJson, dump_json(json));
      },
      open);
  router.add(
      "GET", "/metrics",
      [&service](const auto&, const auto& reply) {
        reply->send(200, "text/plain; version=0.0.4; charset=utf-8",
                    service.metrics.render_all(service.engine.group_snapshots()));
      },
      open);
}

}  // namespace fathom::server
