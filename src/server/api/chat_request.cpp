#include "server/api/chat_request.h"

#include <algorithm>

#include "server/api/chat_turn.h"
#include "server/api/content_parts.h"
#include "server/api/turns.h"
#include "text/chat_markers.h"

namespace fathom::server {
namespace {

void refuse_unsupported_chat(const JsonField& root) {
  refuse_unsupported(root, {{"audio"},
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
                            {"echo"},
                            {"prompt_logprobs", "use echo with logprobs of /v1/completions"},
                            {"truncate_prompt_tokens"},
                            {"include_stop_str_in_output"},
                            {"return_tokens_as_token_ids"},
                            {"length_penalty", "", "1"}});
  // These default to true, and only true is supported.
  for (const char* name : {"skip_special_tokens", "include_reasoning"})
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

// Calls of tools that are no functions ({"type": "custom", "custom": {"name", "input"}}), as those
// of functions with one argument: the conversation goes on without the tool.
void tell_custom_calls(OrderedJson& message) {
  const auto calls = message.find("tool_calls");
  if (calls == message.end() || !calls->is_array()) return;
  for (OrderedJson& call : *calls) {
    if (text_member(call, "type") != "custom" || !call.contains("custom")) continue;
    const OrderedJson& custom = call["custom"];
    OrderedJson function = {{"name", text_member(custom, "name")},
                            {"arguments", {{"input", text_member(custom, "input")}}}};
    call["type"] = "function";
    call["function"] = std::move(function);
    call.erase("custom");
  }
}

// Calls and results of functions in a history, as those of tools: {"function_call": {...}} and the
// role function.
void modernise_calls(OrderedJson& message) {
  if (!message.is_object()) return;
  if (message.value("role", OrderedJson()) == "function") message["role"] = "tool";
  tell_custom_calls(message);
  const auto call = message.find("function_call");
  if (call == message.end() || call->is_null()) return;
  OrderedJson modern = {{"type", "function"}, {"function", *call}};
  message.erase(call);
  message["tool_calls"] = OrderedJson::array({std::move(modern)});
}

}  // namespace

// Reads, in this order, vLLM's chat_template_kwargs, the member of DeepSeek's own API, and
// OpenAI's: the more specific one wins.
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
  read_conversation(root, options.encoding, request);
  request.legacy_functions = has_legacy_functions(root);
  apply_tools(read_tool_use(root, Protocol::chat), request);
  apply_format(root, Protocol::chat, options, request);
  return request;
}

void read_conversation(const JsonField& root, Encoding encoding, ChatRequest& request) {
  OrderedJson messages = with_text_parts(root.at("messages"));
  if (messages.is_array()) {
    bool user_follows = encoding == Encoding::v31;  // which has no developer role
    for (size_t i = messages.size(); i-- > 0;) {
      OrderedJson& m = messages[i];
      modernise_calls(m);
      const OrderedJson role = m.is_object() && m.contains("role") ? m["role"] : OrderedJson();
      if (role == "developer" && user_follows) m["role"] = "system";
      user_follows = user_follows || role == "user";
    }
  }
  request.conversation = conversation_of({{"messages", std::move(messages)}}, "");
  place_instructions(request.conversation, encoding, true);
  request.continues = settle_last_turn(request.conversation, "messages");
  const JsonField flag = root.at("continue_final_message");
  if (flag.boolean_or(request.continues) != request.continues)
    fail("{}: the last message is {}the assistant's", flag.path(), request.continues ? "" : "not ");
  if (!root.at("add_generation_prompt").boolean_or(true) && !request.continues)
    fail(
        "add_generation_prompt: this server does not support false but to continue a last message "
        "of the assistant's");
}

void check_prompt_bytes(const Service& service, size_t bytes) {
  const auto context = static_cast<size_t>(service.engine.context());
  const size_t least = bytes / std::max<size_t>(1, service.tokenizer.longest_token());
  if (least <= context) return;
  throw PromptTooLong(static_cast<int64_t>(least), static_cast<int64_t>(context),
                      fmt::format(" at the least ({} bytes of text)", bytes));
}

ChatPrompt chat_prompt(const Service& service, const ChatRequest& request) {
  // The reasoning of an answer that is being continued is over.
  const bool thinking = request.thinking && !request.continues;
  std::vector<Segment> segments =
      render(request.conversation, {service.options.encoding, thinking, false});
  if (request.continues && segments.back().is_control && segments.back().text == marker::kEos)
    segments.pop_back();
  size_t bytes = 0;
  for (const Segment& segment : segments) bytes += segment.text.size();
  if (!request.counts_only) check_prompt_bytes(service, bytes);
  ChatPrompt prompt;
  // After a tool result the v3.1 encoding just goes on: no reasoning is opened.
  prompt.thinking =
      !segments.empty() && segments.back().is_control && segments.back().text == marker::kThink;
  prompt.ids = encode_segments(service.tokenizer, segments);
  return prompt;
}

}  // namespace fathom::server
