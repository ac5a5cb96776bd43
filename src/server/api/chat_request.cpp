#include "server/api/chat_request.h"

#include <algorithm>

#include "text/chat_markers.h"

namespace fathom::server {
namespace {

void refuse_unsupported_chat(const JsonField& root) {
  refuse_unsupported(root, {{"functions", "use tools"},
                            {"function_call", "use tool_choice"},
                            {"audio"},
                            {"modalities", "answers are text", R"(["text"])"},
                            {"web_search_options"},
                            {"logits_processors"},
                            {"use_beam_search"},
                            {"best_of", "use n", "1"},
                            {"bad_words", "use logit_bias"},
                            {"allowed_token_ids", "use logit_bias"},
                            {"guided_json", "use response_format"},
                            {"guided_regex"},
                            {"guided_choice"},
                            {"guided_grammar"},
                            {"structured_outputs", "use response_format"},
                            {"chat_template", "the checkpoint's encoding is used"},
                            {"documents"},
                            {"continue_final_message"},
                            {"echo"},
                            {"prompt_logprobs", "use echo with logprobs of /v1/completions"},
                            {"truncate_prompt_tokens"},
                            {"include_stop_str_in_output"},
                            {"return_tokens_as_token_ids"},
                            {"length_penalty", "", "1"}});
  // Asked for by their absence of a default that is true.
  for (const char* name : {"add_generation_prompt", "skip_special_tokens", "include_reasoning"})
    if (!root.at(name).boolean_or(true)) fail("{}: this server does not support false", name);
}

void read_logprobs(const JsonField& root, GenerationRequest& request) {
  const bool wanted = root.at("logprobs").boolean_or(false);
  const JsonField top = root.at("top_logprobs");
  const int64_t alternatives = integer_or(top, 0, 0, kMaxTopLogprobs);
  if (!wanted && alternatives > 0) fail("top_logprobs: only with \"logprobs\": true");
  if (wanted) request.logprobs = static_cast<int>(alternatives);
}

// null: until the context is full.
void read_max_tokens(const JsonField& root, GenerationRequest& request) {
  constexpr int64_t kMost = int64_t{1} << 40;
  const int64_t old_name = integer_or(root.at("max_tokens"), 0, 1, kMost);
  request.max_tokens = integer_or(root.at("max_completion_tokens"), old_name, 1, kMost);
}

std::vector<OrderedJson> read_functions(const JsonField& tools) {
  std::vector<OrderedJson> functions;
  if (tools.null()) return functions;
  for (size_t i = 0; i < tools.array_size(); ++i) {
    const JsonField tool = tools.at(i);
    const std::string type = string_or(tool.at("type"), "function");
    if (type != "function")
      fail("{}: expected 'function', found '{}'", tool.at("type").path(), type);
    const JsonField function = tool.at("function");
    if (function.at("name").string().empty())
      fail("{}: expected a name, found \"\"", function.at("name").path());
    if (!function.at("parameters").null()) function.at("parameters").object();
    functions.push_back(function.object());
  }
  return functions;
}

// {"type": "allowed_tools", "allowed_tools": {"mode": ..., "tools": [{"type": "function",
// "function": {"name": ...}}]}}: of `functions` those named, and the mode.
std::string keep_allowed(const JsonField& allowed, std::vector<OrderedJson>& functions) {
  functions = named_functions(functions, allowed.at("tools"),
                              [](const JsonField& tool) { return tool.at("function").at("name"); });
  const std::string& mode = allowed.at("mode").string();
  if (mode != "auto" && mode != "required")
    fail("{}: expected auto or required, found '{}'", allowed.at("mode").path(), mode);
  return mode;
}

// What the answer must be by tool_choice; Kind::free where the model chooses. `shown` are the
// functions that it hears of.
AnswerForm read_tool_choice(const JsonField& root, std::vector<OrderedJson>& shown) {
  AnswerForm form;
  std::vector<OrderedJson> functions = read_functions(root.at("tools"));
  const JsonField choice = root.at("tool_choice");
  shown = functions;
  form.parallel_calls = root.at("parallel_tool_calls").boolean_or(true);
  if (choice.null()) return form;
  const bool allowed = choice.value().is_object() && choice.at("type").value() == "allowed_tools";
  if (choice.value().is_string() || allowed) {
    const std::string mode =
        allowed ? keep_allowed(choice.at("allowed_tools"), functions) : choice.string();
    if (mode != "none" && mode != "auto" && mode != "required")
      fail("tool_choice: expected none, auto, required or a function, found '{}'", mode);
    shown = functions;
    if (mode == "none") shown.clear();
    if (mode != "required") return form;
    if (functions.empty()) fail("tool_choice: 'required', but there are no tools");
    form.kind = AnswerForm::Kind::tool_calls;
    form.tools = std::move(functions);
    return form;
  }
  const std::string& type = choice.at("type").string();
  if (type != "function")
    fail("tool_choice.type: expected function or allowed_tools, found '{}'", type);
  const std::string& name = choice.at("function").at("name").string();
  for (OrderedJson& function : functions) {
    if (function["name"] != name) continue;
    form.kind = AnswerForm::Kind::tool_calls;
    form.tools = {std::move(function)};
    form.parallel_calls = false;  // this function, once
    return form;
  }
  fail("tool_choice.function.name: '{}' is none of the tools", name);
}

// The form of content; tool calls that are asked for by name go before it.
void read_response_format(const JsonField& at, bool may_call, AnswerForm& form) {
  if (at.null()) return;
  const std::string& type = at.at("type").string();
  if (type == "text") return;
  if (type != "json_object" && type != "json_schema")
    fail("response_format.type: expected text, json_object or json_schema, found '{}'", type);
  const JsonField schema =
      at.at("json_schema").null() ? at.at("json_schema") : at.at("json_schema").at("schema");
  if (type == "json_schema") schema.object();
  if (form.kind == AnswerForm::Kind::tool_calls) return;
  if (may_call)
    fail(
        "response_format: with tools that may be called, '{}' cannot be kept to: set tool_choice "
        "to none, required or a function",
        type);
  form.kind = type == "json_object" ? AnswerForm::Kind::json_object : AnswerForm::Kind::json_schema;
  if (type == "json_schema") form.schema = schema.value();
}

}  // namespace

// As vLLM's chat_template_kwargs say it, as DeepSeek's own API does, as OpenAI does: the more
// special one wins.
std::vector<OrderedJson> named_functions(const std::vector<OrderedJson>& functions,
                                         const JsonField& list,
                                         JsonField (*name_of)(const JsonField& entry)) {
  std::vector<OrderedJson> named;
  for (size_t i = 0; i < list.array_size(); ++i) {
    const JsonField name = name_of(list.at(i));
    const auto found = std::find_if(functions.begin(), functions.end(), [&](const OrderedJson& f) {
      return f["name"] == name.string();
    });
    if (found == functions.end()) fail("{}: '{}' is none of the tools", name.path(), name.string());
    named.push_back(*found);
  }
  return named;
}

bool read_thinking(const JsonField& root) {
  const JsonField kwargs = root.at("chat_template_kwargs");
  if (!kwargs.null()) {
    for (const char* name : {"thinking", "enable_thinking"})
      if (!kwargs.at(name).null()) return kwargs.at(name).boolean();
  }
  const JsonField thinking = root.at("thinking");
  if (!thinking.null()) {
    if (thinking.value().is_boolean()) return thinking.boolean();
    const std::string& type = thinking.at("type").string();
    if (type != "enabled" && type != "disabled")
      fail("thinking.type: expected 'enabled' or 'disabled', found '{}'", type);
    return type == "enabled";
  }
  if (!root.at("enable_thinking").null()) return root.at("enable_thinking").boolean();
  const std::string effort = string_or(root.at("reasoning_effort"), "none");
  for (const char* off : {"none", "minimal"})
    if (effort == off) return false;
  for (const char* on : {"low", "medium", "high", "xhigh", "max"})
    if (effort == on) return true;
  fail("reasoning_effort: expected none, minimal, low, medium, high, xhigh or max, found '{}'",
       effort);
}

ChatRequest read_chat_request(const OrderedJson& body, const ServiceOptions& options) {
  const JsonField root(body, "");
  ChatRequest request;
  refuse_unsupported_chat(root);
  request.stream = read_stream(root);
  read_sampling(root, options, request.generation);
  read_max_tokens(root, request.generation);
  read_logprobs(root, request.generation);
  request.thinking = read_thinking(root);
  std::vector<OrderedJson> functions;
  request.form = read_tool_choice(root, functions);
  const bool may_call = !functions.empty() && request.form.kind == AnswerForm::Kind::free;
  request.generation.single_call = !request.form.parallel_calls;
  read_response_format(root.at("response_format"), may_call, request.form);
  OrderedJson tools = OrderedJson::array();
  for (OrderedJson& f : functions)
    tools.push_back({{"type", "function"}, {"function", std::move(f)}});
  request.conversation = read_conversation(body, options.encoding, std::move(tools));
  return request;
}

Conversation read_conversation(const OrderedJson& body, Encoding encoding, OrderedJson tools) {
  OrderedJson own = OrderedJson::object();
  const JsonField root(body, "");
  own["messages"] = root.at("messages").value();
  own["tools"] = std::move(tools);
  if (body.contains("response_format")) own["response_format"] = body["response_format"];
  if (own["messages"].is_array()) {
    bool user_follows = encoding == Encoding::v31;  // which has no developer role
    for (size_t i = own["messages"].size(); i-- > 0;) {
      OrderedJson& m = own["messages"][i];
      const OrderedJson role = m.is_object() && m.contains("role") ? m["role"] : OrderedJson();
      if (role == "developer" && user_follows) m["role"] = "system";
      user_follows = user_follows || role == "user";
    }
  }
  Conversation conversation = conversation_of(own, "");
  const Role last = conversation.back().role;
  if (last == Role::assistant || last == Role::system)
    fail(
        "messages[{}].role: the last message is of role '{}', which leaves nothing to answer: "
        "expected user or tool",
        root.at("messages").array_size() - 1, role_name(last));
  return conversation;
}

void check_prompt_bytes(const Service& service, size_t bytes) {
  const auto context = static_cast<size_t>(service.engine.context());
  const size_t least = bytes / std::max<size_t>(1, service.tokenizer.longest_token());
  if (least <= context) return;
  throw PromptTooLong(static_cast<int64_t>(least), static_cast<int64_t>(context),
                      fmt::format(" at the least ({} bytes of text)", bytes));
}

ChatPrompt chat_prompt(const Service& service, const Conversation& conversation, bool thinking) {
  const std::vector<Segment> segments =
      render(conversation, {service.options.encoding, thinking, false});
  size_t bytes = 0;
  for (const Segment& segment : segments) bytes += segment.text.size();
  check_prompt_bytes(service, bytes);
  ChatPrompt prompt;
  // After a tool result the v3.1 encoding just goes on: no reasoning is opened.
  prompt.thinking =
      !segments.empty() && segments.back().is_control && segments.back().text == marker::kThink;
  prompt.ids = encode_segments(service.tokenizer, segments);
  return prompt;
}

}  // namespace fathom::server
