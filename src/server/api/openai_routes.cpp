// The routes of OpenAI's API: chat and text completions, and the list of models.
#include <ctime>

#include "server/api/openai_chat.h"
#include "server/api/openai_completions.h"
#include "server/api/sampling_request.h"
#include "server/http/sse.h"
#include "server/service.h"

namespace fathom::server {
namespace {

std::string rfc3339(int64_t unix_time) {
  const auto when = static_cast<std::time_t>(unix_time);
  std::tm utc{};
  gmtime_r(&when, &utc);
  char text[32];
  return {text, std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &utc)};
}

// The members of OpenAI's and vLLM's lists, then those of Anthropic's, then those that routers in
// front of servers read.
OrderedJson model_json(const Service& service, const std::string& name) {
  OrderedJson json;
  json["id"] = name;
  json["object"] = "model";
  json["created"] = service.options.created;
  json["owned_by"] = "fathom";
  json["root"] = service.options.model_names.front();
  json["parent"] = nullptr;
  json["max_model_len"] = service.engine.context();
  json["type"] = "model";
  json["display_name"] = name;
  json["created_at"] = rfc3339(service.options.created);
  json["max_input_tokens"] = service.engine.context();
  json["max_tokens"] = service.engine.context();
  json["context_length"] = service.engine.context();
  return json;
}

}  // namespace

void add_openai_routes(Router& router, Service& service) {
  router.add("POST", "/v1/chat/completions", [&service](const auto& request, const auto& reply) {
    handle_chat_completions(service, *request, reply);
  });
  router.add("POST", "/v1/completions", [&service](const auto& request, const auto& reply) {
    handle_completions(service, *request, reply);
  });
  router.add("GET", "/v1/models", [&service](const auto&, const auto& reply) {
    OrderedJson json;
    json["object"] = "list";
    json["data"] = OrderedJson::array();
    for (const std::string& name : service.options.model_names)
      json["data"].push_back(model_json(service, name));
    // Anthropic's list comes in pages; this one is whole.
    json["first_id"] = service.options.model_names.front();
    json["last_id"] = service.options.model_names.back();
    json["has_more"] = false;
    reply->send(200, "application/json", dump_json(json));
  });
  router.add("GET", "/v1/models/*", [&service](const auto& request, const auto& reply) {
    const std::string_view name =
        std::string_view(request->path).substr(std::string_view("/v1/models/").size());
    if (!serves_model(name, service.options))
      return send_model_not_found(*reply, name, service.options);
    reply->send(200, "application/json", dump_json(model_json(service, std::string(name))));
  });
}

}  // namespace fathom::server
