#include "server/api/chat_turn.h"

#include <algorithm>
#include <utility>

namespace fathom::server {
namespace {

Message& first_system(Conversation& conversation) {
  const auto found = std::find_if(conversation.begin(), conversation.end(),
                                  [](const Message& m) { return m.role == Role::system; });
  if (found != conversation.end()) return *found;
  Message empty;
  empty.role = Role::system;
  return *conversation.insert(conversation.begin(), std::move(empty));
}

bool may_call(const ChatRequest& chat) {
  return chat.form.kind == AnswerForm::Kind::free &&
         std::any_of(chat.conversation.begin(), chat.conversation.end(),
                     [](const Message& m) { return !m.tools.is_null(); });
}

}  // namespace

void apply_tools(const ToolUse& tools, std::string_view where, ChatRequest& chat) {
  chat.generation.single_call = !tools.parallel;
  chat.form.parallel_calls = tools.parallel;
  if (tools.mode == ToolUse::Mode::required && tools.functions.empty()) {
    fail("{}: a tool must be called, but there are none", where);
  }
  if (tools.mode == ToolUse::Mode::named) {
    const auto named = std::find_if(tools.functions.begin(), tools.functions.end(),
                                    [&](const OrderedJson& f) { return f["name"] == tools.name; });
    if (named == tools.functions.end()) fail("{}: '{}' is none of the tools", where, tools.name);
    chat.form.tools = {*named};
    chat.form.parallel_calls = false;  // this tool, once
  } else if (tools.mode == ToolUse::Mode::required) {
    chat.form.tools = tools.functions;
  }
  if (!chat.form.tools.empty()) chat.form.kind = AnswerForm::Kind::tool_calls;
  if (tools.mode == ToolUse::Mode::none || tools.functions.empty()) return;
  first_system(chat.conversation).tools = OrderedJson(tools.functions);
}

void apply_format(const OrderedJson& format, std::string_view where, ChatRequest& chat) {
  const JsonField at(format, std::string(where));
  const std::string& type = at.at("type").string();
  if (type == "text") return;
  if (type != "json_object" && type != "json_schema") {
    fail("{}.type: expected text, json_object or json_schema, found '{}'", where, type);
  }
  first_system(chat.conversation).response_format = format;
  if (chat.form.kind == AnswerForm::Kind::tool_calls) return;
  if (may_call(chat)) {
    fail(
        "{}: beside tools that may be called, '{}' cannot be kept to: leave out one of them, or "
        "let the tool choice be that none or one must be called",
        where, type);
  }
  const bool schema = type == "json_schema";
  chat.form.kind = schema ? AnswerForm::Kind::json_schema : AnswerForm::Kind::json_object;
  if (schema) chat.form.schema = at.at("json_schema").at("schema").object();
}

std::optional<Failure> prepare(Service& service, ChatRequest& chat) {
  GenerationRequest& generation = chat.generation;
  if (chat.form.kind != AnswerForm::Kind::free && generation.ignore_eos) {
    fail("ignore_eos: not for an answer of a given form, which has an end");
  }
  const ChatPrompt prompt = chat_prompt(service, chat.conversation, chat.thinking);
  generation.prompt = prompt.ids;
  generation.thinking = prompt.thinking;
  if (chat.form.kind == AnswerForm::Kind::free) return std::nullopt;
  chat.form.thinking = prompt.thinking;
  auto compiled = service.constraints.compile(chat.form);
  if (!compiled.ok()) return compiled.failure();
  generation.form = std::move(compiled).value();
  return std::nullopt;
}

}  // namespace fathom::server
