#include "server/api/responses_request.h"

#include <algorithm>
#include <ctime>
#include <utility>

namespace fathom::server {
namespace {

void refuse_unsupported_fields(const JsonField& root) {
  refuse_unsupported(root, {{"background", "ask with \"stream\": true, or wait"},
                            {"conversation", "use previous_response_id"},
                            {"prompt", "send instructions and input"},
                            {"context_management"},
                            {"truncation", "what is too long is refused", R"("disabled")"},
                            {"top_logprobs", "use /v1/chat/completions", "0"},
                            {"n", "use /v1/chat/completions", "1"},
                            {"max_tokens", "it is max_output_tokens here"},
                            {"response_format", "it is text.format here"},
                            {"messages", "it is input here"}});
  const JsonField include = root.at("include");
  if (include.null()) return;
  for (size_t i = 0; i < include.array_size(); ++i) {
    // The others ask for details of what never occurs here, or for a sealed form of what is given
    // in the open.
    if (include.at(i).string() == "message.output_text.logprobs")
      fail("{}: this server does not support it: use /v1/chat/completions", include.at(i).path());
  }
}

// Whether the tool is offered to the model. Hosted tools that a model may use and need not are left
// out, and missing in the response's list; agents name them on their own account.
bool is_offered(const JsonField& type) {
  const std::string& name = type.string();
  if (name == "function") return true;
  for (const char* hosted : {"web_search", "web_search_preview", "image_generation"})
    if (name.starts_with(hosted)) return false;
  fail(
      "{}: expected 'function' (or 'web_search' and 'image_generation', which are left out), found "
      "'{}'",
      type.path(), name);
}

OrderedJson read_function(const JsonField& tool) {
  OrderedJson function;
  function["name"] = tool.at("name").string();
  if (function["name"] == "") fail("{}: expected a name, found \"\"", tool.at("name").path());
  if (!tool.at("description").null()) function["description"] = tool.at("description").string();
  if (!tool.at("parameters").null()) function["parameters"] = tool.at("parameters").object();
  return function;
}

void set_mode(const JsonField& mode, ToolUse& tools) {
  const std::string& name = mode.string();
  if (name == "none")
    tools.mode = ToolUse::Mode::none;
  else if (name == "required")
    tools.mode = ToolUse::Mode::required;
  else if (name != "auto")
    fail("{}: expected none, auto or required, found '{}'", mode.path(), name);
}

// {"type": "allowed_tools", "mode": ..., "tools": [{"type": "function", "name": ...}]}
void keep_allowed(const JsonField& choice, ToolUse& tools) {
  set_mode(choice.at("mode"), tools);
  tools.functions = named_functions(tools.functions, choice.at("tools"),
                                    [](const JsonField& tool) { return tool.at("name"); });
}

ToolUse read_tools(const JsonField& root, OrderedJson& echo) {
  ToolUse tools;
  echo["tools"] = OrderedJson::array();
  const JsonField list = root.at("tools");
  for (size_t i = 0; !list.null() && i < list.array_size(); ++i) {
    if (!is_offered(list.at(i).at("type"))) continue;
    tools.functions.push_back(read_function(list.at(i)));
    echo["tools"].push_back(list.at(i).value());
  }
  tools.parallel = root.at("parallel_tool_calls").boolean_or(true);
  echo["parallel_tool_calls"] = tools.parallel;
  const JsonField choice = root.at("tool_choice");
  echo["tool_choice"] = choice.null() ? OrderedJson("auto") : choice.value();
  if (choice.null()) return tools;
  if (choice.value().is_string()) {
    set_mode(choice, tools);
  } else if (const std::string& type = choice.at("type").string(); type == "allowed_tools") {
    keep_allowed(choice, tools);
  } else if (type == "function") {
    tools.mode = ToolUse::Mode::named;
    tools.name = choice.at("name").string();
  } else {
    fail("{}: expected function or allowed_tools, found '{}'", choice.at("type").path(), type);
  }
  return tools;
}

// text.format in the wording of the chat endpoint.
OrderedJson read_format(const JsonField& text) {
  OrderedJson plain = {{"type", "text"}};
  if (text.null() || text.at("format").null()) return plain;
  const JsonField format = text.at("format");
  if (format.at("type").string() != "json_schema") return format.value();
  OrderedJson schema = {{"name", format.at("name").string()}};
  for (const char* key : {"description", "schema", "strict"})
    if (!format.at(key).null()) schema[key] = format.at(key).value();
  format.at("schema").object();
  return {{"type", "json_schema"}, {"json_schema", std::move(schema)}};
}

bool read_thinking(const JsonField& root, OrderedJson& echo) {
  const JsonField reasoning = root.at("reasoning");
  std::string effort;
  if (!reasoning.null()) effort = string_or(reasoning.at("effort"), "");
  echo["reasoning"] = {{"effort", effort.empty() ? OrderedJson() : OrderedJson(effort)},
                       {"summary", nullptr}};
  if (effort.empty()) return false;
  for (const char* off : {"none", "minimal"})
    if (effort == off) return false;
  for (const char* on : {"low", "medium", "high", "xhigh", "max"})
    if (effort == on) return true;
  fail("reasoning.effort: expected none, minimal, low, medium, high, xhigh or max, found '{}'",
       effort);
}

OrderedJson read_metadata(const JsonField& at) {
  if (at.null()) return OrderedJson::object();
  constexpr size_t kMostEntries = 16;
  if (at.object().size() > kMostEntries)
    fail("metadata: at most {} entries are accepted, found {}", kMostEntries, at.value().size());
  for (const auto& [key, value] : at.value().items()) at.at(key).string();
  return at.value();
}

// Instructions, what went before, and the input.
void read_input(const JsonField& root, ResponseStore& stored, ResponsesRequest& request) {
  const JsonField previous = root.at("previous_response_id");
  if (!previous.null()) {
    const auto found = stored.find(previous.string());
    if (!found) fail("previous_response_id: no stored response has the id '{}'", previous.string());
    request.history = found->conversation;
    for (Message& m : request.history) m.place = previous.path();  // not of this request's input
  }
  const size_t before = request.history.size();
  append_items(
      root.at("input").value(), "input",
      [&](const std::string& id) { return stored.find_item(id); }, request.history);
  if (request.history.size() == before) fail("input: expected at least one item, found none");
  check_tool_results(request.history);
  const Role last = request.history.back().role;
  if (last == Role::assistant || last == Role::system)
    fail("input: the last item is of role '{}', which leaves nothing to answer", role_name(last));
  const JsonField instructions = root.at("instructions");
  if (!instructions.null() && !instructions.string().empty()) {
    Message system;
    system.role = Role::system;
    system.place = instructions.path();
    system.content = instructions.string();
    request.chat.conversation.push_back(std::move(system));
  }
  request.chat.conversation.insert(request.chat.conversation.end(), request.history.begin(),
                                   request.history.end());
}

// 0.6f as 0.6, not as 0.6000000238418579.
double as_written(float number) { return std::stod(fmt::format("{}", number)); }

OrderedJson empty_response(const JsonField& root, const ServiceOptions& options,
                           const std::string& id) {
  OrderedJson r;
  r["id"] = id;
  r["object"] = "response";
  r["created_at"] = static_cast<int64_t>(std::time(nullptr));
  r["status"] = "in_progress";
  r["background"] = false;
  r["error"] = nullptr;
  r["incomplete_details"] = nullptr;
  r["instructions"] = root.at("instructions").value();
  r["max_output_tokens"] = root.at("max_output_tokens").value();
  r["model"] = options.model_names.front();
  r["output"] = OrderedJson::array();
  r["previous_response_id"] = root.at("previous_response_id").value();
  return r;
}

}  // namespace

ResponsesRequest read_responses_request(const OrderedJson& body, const ServiceOptions& options,
                                        ResponseStore& stored, const std::string& id) {
  constexpr int64_t kMost = int64_t{1} << 40;
  const JsonField root(body, "");
  refuse_unsupported_fields(root);
  ResponsesRequest request;
  GenerationRequest& generation = request.chat.generation;
  request.chat.stream = read_stream(root);
  read_sampling(root, options, generation);
  generation.max_tokens = integer_or(root.at("max_output_tokens"), 0, 1, kMost);
  read_input(root, stored, request);
  OrderedJson& r = request.response;
  r = empty_response(root, options, id);
  generation.id = id;
  request.chat.thinking = read_thinking(root, r);
  apply_tools(read_tools(root, r), "tool_choice", request.chat);
  const OrderedJson format = read_format(root.at("text"));
  apply_format(format, "text.format", request.chat);
  r["text"] = {
      {"format", format["type"] == "json_schema" ? root.at("text").at("format").value() : format}};
  request.store = root.at("store").boolean_or(true) && options.max_stored_responses > 0;
  r["store"] = request.store;
  r["temperature"] = as_written(generation.sampling.temperature);
  r["top_p"] = as_written(generation.sampling.top_p);
  r["truncation"] = "disabled";
  r["metadata"] = read_metadata(root.at("metadata"));
  r["usage"] = nullptr;
  return request;
}

}  // namespace fathom::server
