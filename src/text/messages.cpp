#include "text/messages.h"

#include <algorithm>

#include "base/error.h"
#include "text/json_limits.h"

namespace fathom {
namespace {

using At = JsonAt<OrderedJson>;

constexpr Role kRoles[] = {Role::system, Role::developer, Role::user, Role::assistant, Role::tool};

Role read_role(const At& at) {
  const std::string& name = at.string();
  for (const Role role : kRoles) {
    if (role_name(role) == name) return role;
  }
  fail("{}: expected system, developer, user, assistant or tool, found '{}'", at.path(), name);
}

// A string, or a list of text parts, which are joined. Clients may send back null for a message of
// the model or of a tool without text. The other roles must have content.
std::string read_content(const At& at, Role role) {
  if (at.null() && (role == Role::assistant || role == Role::tool)) return {};
  if (!at.value().is_array()) {
    at.expect(at.value().is_string(), "a string or a list of text parts");
    return at.string();
  }
  std::string text;
  for (size_t i = 0; i < at.array_size(); ++i) {
    const At part = at.at(i);
    if (part.value().is_string()) {
      text += part.string();
      continue;
    }
    const std::string& type = part.at("type").string();
    if (type != "text") fail("{}: expected 'text', found '{}'", part.at("type").path(), type);
    text += part.at("text").string();
  }
  return text;
}

std::vector<ToolCall> read_tool_calls(const At& at) {
  std::vector<ToolCall> calls;
  if (at.null()) return calls;
  for (size_t i = 0; i < at.array_size(); ++i) {
    const At item = at.at(i);
    const At function = item.at("function");
    ToolCall call;
    if (!item.at("id").null()) call.id = item.at("id").string();
    call.name = function.at("name").string();
    if (call.name.empty()) fail("{}: expected a name, found \"\"", function.at("name").path());
    call.arguments = read_arguments(function.at("arguments"));
    calls.push_back(std::move(call));
  }
  return calls;
}

// The function objects of OpenAI's list of tools; null for none.
OrderedJson read_tools(const At& at) {
  if (at.null() || at.array_size() == 0) return nullptr;
  OrderedJson functions = OrderedJson::array();
  for (size_t i = 0; i < at.array_size(); ++i) {
    const At function = at.at(i).at("function");
    function.at("name").string();
    functions.push_back(function.object());
  }
  return functions;
}

// {"type": "text"} is OpenAI's way to ask for nothing in particular.
OrderedJson read_response_format(const At& at) {
  if (at.null()) return nullptr;
  const bool plain = at.value().is_object() && at.at("type").value() == "text";
  return plain ? OrderedJson(nullptr) : at.value();
}

void check_only_for(const At& at, const char* key, bool allowed, std::string_view wanted) {
  if (!allowed && !at.at(key).null()) {
    fail("{}: only {} have it, this one is '{}'", at.at(key).path(), wanted,
         at.at("role").string());
  }
}

Message read_message(const At& at, std::string place) {
  Message m;
  m.role = read_role(at.at("role"));
  m.place = std::move(place);
  const bool assistant = m.role == Role::assistant;
  const bool instructs = m.role == Role::system || m.role == Role::developer;
  const At calls = at.at("tool_calls");
  if (!calls.null() && calls.array_size() > 0) {
    check_only_for(at, "tool_calls", assistant, "assistant messages");
  }
  check_only_for(at, "tools", instructs, "system and developer messages");
  check_only_for(at, "response_format", instructs, "system and developer messages");
  m.tool_calls = read_tool_calls(calls);
  m.tools = read_tools(at.at("tools"));
  m.response_format = read_response_format(at.at("response_format"));
  // Clients send back what they were given, nulls included.
  if (assistant && !at.at("reasoning_content").null()) {
    m.reasoning_content = at.at("reasoning_content").string();
  }
  if (!at.at("tool_call_id").null()) m.tool_call_id = at.at("tool_call_id").string();
  const bool only_instructs =
      m.role == Role::system && (!m.tools.is_null() || !m.response_format.is_null());
  const At content = at.at("content");
  if (!content.null() || !only_instructs) m.content = read_content(content, m.role);
  return m;
}

// Request-level tools and response format belong to the first system message.
void attach_to_system(Conversation& conversation, OrderedJson tools, OrderedJson response_format,
                      std::string_view lead) {
  if (tools.is_null() && response_format.is_null()) return;
  auto system = std::find_if(conversation.begin(), conversation.end(),
                             [](const Message& m) { return m.role == Role::system; });
  if (system == conversation.end()) {
    Message empty;
    empty.role = Role::system;
    system = conversation.insert(conversation.begin(), std::move(empty));
  }
  if (!tools.is_null()) {
    if (!system->tools.is_null()) fail("{}tools are given twice", lead);
    system->tools = std::move(tools);
  }
  if (!response_format.is_null()) {
    if (!system->response_format.is_null()) fail("{}response_format is given twice", lead);
    system->response_format = std::move(response_format);
  }
}

}  // namespace

std::string_view role_name(Role role) {
  switch (role) {
    case Role::system:
      return "system";
    case Role::developer:
      return "developer";
    case Role::user:
      return "user";
    case Role::assistant:
      return "assistant";
    case Role::tool:
      return "tool";
  }
  return "";
}

Conversation parse_conversation(std::string_view json_text, std::string_view where) {
  if (const std::string beyond = beyond_json_limits(json_text); !beyond.empty())
    fail("{}: {}", where, beyond);
  return conversation_of(parse_json<OrderedJson>(json_text, where), where);
}

Conversation conversation_of(const OrderedJson& document, std::string_view where) {
  const std::string lead = where.empty() ? std::string() : fmt::format("{}: ", where);
  const At root(document, lead);
  const bool bare = document.is_array();
  if (!bare) root.expect(document.is_object(), "an array of messages or an object with messages");
  const At list = bare ? At(document, lead + "messages") : root.at("messages");
  if (list.array_size() == 0) fail("{}: expected at least one message, found none", list.path());
  Conversation conversation;
  for (size_t i = 0; i < list.array_size(); ++i)
    conversation.push_back(read_message(list.at(i), fmt::format("messages[{}]", i)));
  results_to_their_calls(conversation);
  try {
    check_tool_results(conversation);
  } catch (const Error& e) {
    fail("{}{}", lead, e.what());
  }
  if (!bare) {
    attach_to_system(conversation, read_tools(root.at("tools")),
                     read_response_format(root.at("response_format")), lead);
  }
  return conversation;
}

std::string place_of_message(const Conversation& conversation, size_t index) {
  const std::string& place = conversation[index].place;
  return place.empty() ? fmt::format("messages[{}]", index) : place;
}

std::string read_arguments(const JsonAt<OrderedJson>& at) {
  if (at.null()) return "{}";
  if (at.value().is_object()) return python_dumps(at.value());
  at.expect(at.value().is_string(), "a JSON object or its text");
  const std::string& text = at.string();
  if (text.find_first_not_of(" \t\r\n") == text.npos) return "{}";
  if (const std::string beyond = beyond_json_limits(text); !beyond.empty())
    fail("{}: {} of the text", at.path(), beyond);
  return text;
}

void results_to_their_calls(Conversation& conversation) {
  size_t next = conversation.size();  // where the next result of the calls goes
  const std::vector<ToolCall>* calls = nullptr;
  for (size_t i = 0; i < conversation.size(); ++i) {
    const Message& m = conversation[i];
    if (m.role == Role::assistant) {
      calls = &m.tool_calls;
      next = i + 1;
    }
    if (m.role != Role::tool || calls == nullptr) continue;
    const bool theirs =
        i == next || std::any_of(calls->begin(), calls->end(), [&](const ToolCall& call) {
          return !call.id.empty() && call.id == m.tool_call_id;
        });
    if (!theirs) continue;
    std::rotate(conversation.begin() + static_cast<ptrdiff_t>(next),
                conversation.begin() + static_cast<ptrdiff_t>(i),
                conversation.begin() + static_cast<ptrdiff_t>(i) + 1);
    ++next;
  }
}

void check_tool_results(const Conversation& conversation) {
  for (size_t i = 0; i < conversation.size(); ++i) {
    const Role role = conversation[i].role;
    if (role == Role::assistant) answered_calls(conversation, i);
    const Role before = i > 0 ? conversation[i - 1].role : Role::system;
    if (role == Role::tool && before != Role::tool && before != Role::assistant) {
      fail("{}: a tool result without a call: no assistant message before it",
           place_of_message(conversation, i));
    }
  }
}

std::vector<size_t> answered_calls(const Conversation& conversation, size_t assistant) {
  const std::vector<ToolCall>& calls = conversation[assistant].tool_calls;
  std::vector<size_t> answers;
  std::vector<bool> answered(calls.size(), false);
  for (size_t i = assistant + 1; i < conversation.size(); ++i) {
    const Message& m = conversation[i];
    if (m.role != Role::tool) break;
    size_t call = 0;
    const bool by_id =
        !m.tool_call_id.empty() &&
        std::any_of(calls.begin(), calls.end(), [](const ToolCall& c) { return !c.id.empty(); });
    while (call < calls.size() && (answered[call] || (by_id && calls[call].id != m.tool_call_id))) {
      ++call;
    }
    if (call == calls.size()) {
      fail("{}: a tool result without a call{} in {}, which has {}",
           place_of_message(conversation, i),
           by_id ? fmt::format(" '{}' still open", m.tool_call_id) : "",
           place_of_message(conversation, assistant),
           calls.empty() ? "no tool calls" : fmt::format("{} of them", calls.size()));
    }
    answered[call] = true;
    answers.push_back(call);
  }
  return answers;
}

OrderedJson message_to_json(const Message& message) {
  OrderedJson json;
  json["role"] = role_name(message.role);
  json["content"] = message.content;
  if (message.content.empty() && !message.tool_calls.empty()) json["content"] = nullptr;
  if (!message.reasoning_content.empty()) json["reasoning_content"] = message.reasoning_content;
  if (!message.tool_call_id.empty()) json["tool_call_id"] = message.tool_call_id;
  for (const ToolCall& call : message.tool_calls) {
    OrderedJson function;
    function["name"] = call.name;
    function["arguments"] = call.arguments;
    OrderedJson item;
    item["id"] = call.id;
    item["type"] = "function";
    item["function"] = std::move(function);
    json["tool_calls"].push_back(std::move(item));
  }
  return json;
}

}  // namespace fathom
