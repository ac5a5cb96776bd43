#include "server/api/chat_turn.h"

#include <algorithm>
#include <utility>

#include "text/chat_v32.h"

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

// Anthropic's field has had two names.
JsonField format_of(const JsonField& root, Protocol protocol) {
  if (protocol == Protocol::chat) return root.at("response_format");
  JsonField old_name = root.at("output_format");
  if (protocol == Protocol::messages && !old_name.null()) return old_name;
  const JsonField around = root.at(protocol == Protocol::responses ? "text" : "output_config");
  return around.null() ? around : around.at("format");
}

// Rewrites a format with a schema in the form of the chat endpoint.
OrderedJson in_chat_words(const JsonField& format, Protocol protocol) {
  OrderedJson inner;
  const bool named = protocol == Protocol::responses;
  inner["name"] = named ? format.at("name").string() : std::string("answer");
  for (const char* key : {"description", "schema", "strict"})
    if (!format.at(key).null()) inner[key] = format.at(key).value();
  return {{"type", "json_schema"}, {"json_schema", std::move(inner)}};
}

// The v3.1 encoding has no place for a format: what is said of it is part of the instructions, in
// the words of the v3.2 encoding.
void show_format(const OrderedJson& format, Encoding encoding, Conversation& conversation) {
  Message& system = first_system(conversation);
  if (encoding == Encoding::v32) {
    system.response_format = format;
    return;
  }
  if (!system.content.empty()) system.content += "\n\n";
  system.content += kResponseFormatHead;
  system.content += python_dumps(format);
}

}  // namespace

bool has_tools(const Conversation& conversation) {
  return std::any_of(conversation.begin(), conversation.end(),
                     [](const Message& m) { return !m.tools.is_null(); });
}

void apply_tools(const ToolUse& use, ChatRequest& chat) {
  chat.names = use.names;
  chat.left_out.insert(use.left_out.begin(), use.left_out.end());
  AnswerForm& form = chat.form;
  // A tool that is asked for by its name is called once.
  form.parallel_calls = use.parallel && use.mode != ToolUse::Mode::named;
  chat.generation.single_call = !form.parallel_calls;
  const bool named = use.mode == ToolUse::Mode::named;
  const bool none = use.mode == ToolUse::Mode::none;
  form.strict_tools = false;
  OrderedJson functions = OrderedJson::array();
  for (const Tool& tool : use.tools) {
    functions.push_back(tool.function);
    const bool other = named && (tool.function["name"] != use.named || !form.tools.empty());
    if (none || other) continue;
    form.tools.push_back(tool.function);
    form.tools.back()["strict"] = tool.strict;
    form.tool_places.push_back(tool.place);
  }
  if (named || use.mode == ToolUse::Mode::required) form.kind = AnswerForm::Kind::tool_calls;
  if (use.mode == ToolUse::Mode::none || functions.empty()) return;
  Message& system = first_system(chat.conversation);
  if (!system.tools.is_null()) fail("tools are given twice");
  system.tools = std::move(functions);
}

OrderedJson apply_format(const JsonField& root, Protocol protocol, const ServiceOptions& options,
                         ChatRequest& chat) {
  const JsonField at = format_of(root, protocol);
  OrderedJson plain = {{"type", "text"}};
  if (at.null()) return plain;
  const std::string& type = at.at("type").string();
  if (type == "text" && protocol != Protocol::messages) return plain;
  if (protocol == Protocol::messages && type != "json_schema")
    fail("{}: expected json_schema, found '{}'", at.at("type").path(), type);
  if (type != "json_object" && type != "json_schema")
    fail("{}: expected text, json_object or json_schema, found '{}'", at.at("type").path(), type);
  const bool by_schema = type == "json_schema";
  OrderedJson format =
      by_schema && protocol != Protocol::chat ? in_chat_words(at, protocol) : at.value();
  const JsonField around = protocol == Protocol::chat && by_schema ? at.at("json_schema") : at;
  const JsonField schema = around.at("schema");
  if (by_schema) schema.object();
  if (std::any_of(chat.conversation.begin(), chat.conversation.end(),
                  [](const Message& m) { return !m.response_format.is_null(); }))
    fail("response_format is given twice");
  if (options.show_format.value_or(options.encoding == Encoding::v32))
    show_format(format, options.encoding, chat.conversation);
  if (chat.form.kind == AnswerForm::Kind::tool_calls) return format;
  // Other servers' clients send json_object with a schema where OpenAI's send json_schema.
  const bool follows = by_schema || !schema.null();
  chat.form.kind = follows ? AnswerForm::Kind::json_schema : AnswerForm::Kind::json_object;
  if (!follows) return format;
  chat.form.schema = schema.object();
  chat.form.schema_place = schema.path();
  chat.form.strict = around.at("strict").boolean_or(false);
  return format;
}

std::optional<Failure> prepare(Service& service, ChatRequest& chat) {
  GenerationRequest& generation = chat.generation;
  if (chat.form.kind != AnswerForm::Kind::free && generation.ignore_eos) {
    fail("ignore_eos: not for an answer of a given form, which has an end");
  }
  if (chat.form.kind != AnswerForm::Kind::free && chat.continues) {
    fail(
        "{}: an answer that the client has begun cannot be held to a form: leave out the last "
        "message, or the format and the call that must be",
        place_of_message(chat.conversation, chat.conversation.size() - 1));
  }
  const ChatPrompt prompt = chat_prompt(service, chat);
  generation.prompt = prompt.ids;
  generation.thinking = prompt.thinking;
  if (chat.form.kind == AnswerForm::Kind::free) return std::nullopt;
  chat.form.thinking = prompt.thinking;
  auto compiled = service.constraints.compile(chat.form);
  if (!compiled.ok()) return compiled.failure();
  generation.form = std::move(compiled).value();
  return std::nullopt;
}

void note_left_out(HttpReply& reply, const ChatRequest& chat) {
  if (!chat.left_out.empty())
    reply.note("left_out", fmt::format("{}", fmt::join(chat.left_out, ", ")));
}

}  // namespace fathom::server
