#include "server/api/responses_request.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "server/api/turns.h"

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
    // The other values ask for details that do not occur here, or for an encrypted form of what is
    // returned in the open.
    if (include.at(i).string() == "message.output_text.logprobs")
      fail("{}: this server does not support it: use /v1/chat/completions", include.at(i).path());
  }
}

void echo_tools(const JsonField& root, const ToolUse& use, ResponsesRequest& request) {
  OrderedJson& echo = request.response;
  echo["tools"] = use.offered;
  echo["parallel_tool_calls"] = use.parallel;
  const JsonField choice = root.at("tool_choice");
  echo["tool_choice"] = choice.null() ? OrderedJson("auto") : choice.value();
}

bool read_reasoning(const JsonField& root, OrderedJson& echo) {
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
  request.chat.left_out.merge(append_items(
      root.at("input").value(), "input",
      [&](const std::string& id) { return stored.find_item(id); }, request.chat.names,
      request.history));
  if (request.history.size() == before) fail("input: expected at least one item, found none");
  results_to_their_calls(request.history);
  check_tool_results(request.history);
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

// `input` as input_items gives it back: a list whose items have ids, made from that of the response
// where they have none.
OrderedJson items_of(const OrderedJson& input, std::string_view response_id) {
  OrderedJson items = input;
  if (input.is_string()) {
    const OrderedJson part = {{"type", "input_text"}, {"text", input}};
    const OrderedJson message = {{"role", "user"}, {"content", OrderedJson::array({part})}};
    items = OrderedJson::array({message});
  }
  response_id.remove_prefix(std::min(response_id.size(), response_id.find('_') + 1));
  size_t number = 0;
  for (OrderedJson& item : items) {
    if (!item.contains("type")) item["type"] = "message";
    if (!item.contains("id")) item["id"] = fmt::format("msg_{}_{}", response_id, number);
    ++number;
  }
  return items;
}

// The double whose text is the float's: 0.6f becomes 0.6, not 0.6000000238418579.
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
  const ToolUse tools = read_tool_use(root, Protocol::responses);
  request.chat.names = tools.names;
  read_input(root, stored, request);
  place_instructions(request.chat.conversation, options.encoding, false);
  request.chat.continues = settle_last_turn(request.chat.conversation, "input");
  OrderedJson& r = request.response;
  r = empty_response(root, options, id);
  generation.id = id;
  request.chat.thinking = read_reasoning(root, r);
  apply_tools(tools, request.chat);
  echo_tools(root, tools, request);
  const OrderedJson format = apply_format(root, Protocol::responses, options, request.chat);
  r["text"] = {
      {"format", format["type"] == "json_schema" ? root.at("text").at("format").value() : format}};
  request.store = root.at("store").boolean_or(true) && options.max_stored_responses > 0;
  if (request.store) request.input = items_of(root.at("input").value(), id);
  r["store"] = request.store;
  r["temperature"] = as_written(generation.sampling.temperature);
  r["top_p"] = as_written(generation.sampling.top_p);
  r["truncation"] = "disabled";
  r["metadata"] = read_metadata(root.at("metadata"));
  r["usage"] = nullptr;
  return request;
}

}  // namespace fathom::server
