// The routes of OpenAI's API: chat and text completions, and the list of models.
#include "server/openai_chat.h"
#include "server/openai_completions.h"
#include "server/service.h"
#include "server/sse.h"

namespace fathom::server {
namespace {

OrderedJson model_json(const Service& service, const std::string& name) {
  OrderedJson json;
  json["id"] = name;
  json["object"] = "model";
  json["created"] = service.options.created;
  json["owned_by"] = "fathom";
  json["root"] = service.options.model_names.front();
  json["parent"] = nullptr;
  json["max_model_len"] = service.engine.max_context();
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
    reply->send(200, "application/json", dump_json(json));
  });
  for (const std::string& name : service.options.model_names)
    router.add("GET", "/v1/models/" + name, [&service, name](const auto&, const auto& reply) {
      reply->send(200, "application/json", dump_json(model_json(service, name)));
    });
}

}  // namespace fathom::server
