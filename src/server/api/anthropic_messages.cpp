#include "server/api/anthropic_messages.h"

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <utility>

#include "server/api/content_parts.h"
#include "server/api/json_request.h"
#include "text/json_reader.h"

namespace fathom::server {
namespace {

using At = JsonAt<OrderedJson>;

void add_block(std::string& text, std::string_view block) {
  if (!text.empty() && !block.empty()) text += "\n\n";
  text += block;
}

bool is_one_of(std::string_view type, std::initializer_list<std::string_view> types) {
  return std::find(types.begin(), types.end(), type) != types.end();
}

// The text of a string or of blocks (system texts, tool results). A block that is no text is
// replaced by a placeholder.
std::string read_text(const At& at) {
  if (at.null()) return {};
  if (at.value().is_string()) return at.string();
  at.expect(at.value().is_array(), "a string or a list of text blocks");
  std::string text;
  for (size_t i = 0; i < at.array_size(); ++i) {
    const At block = at.at(i);
    const std::string& type = block.at("type").string();
    // Which tools there are is read with the request's tools.
    if (is_one_of(type, {"tool_addition", "tool_removal"})) continue;
    add_block(text, text_of_part(block).value_or(placeholder_of(type)));
  }
  return text;
}

std::string string_or_none(const At& at) { return at.null() ? std::string() : at.string(); }

[[noreturn]] void refuse_block(const At& block, std::string_view accepted) {
  fail("{}: expected {}, found '{}'", block.at("type").path(), accepted, block.at("type").string());
}

void read_result(const At& block, Conversation& conversation) {
  Message result;
  result.role = Role::tool;
  result.place = block.path();
  result.tool_call_id = block.at("tool_use_id").string();
  // The templates have no place for failure but the text.
  if (block.at("is_error").boolean_or(false)) result.content = "Error: ";
  result.content += read_text(block.at("content"));
  conversation.push_back(std::move(result));
}

bool holds_results(const At& content) {
  return std::any_of(content.value().begin(), content.value().end(), [](const OrderedJson& block) {
    return text_member(block, "type") == "tool_result";
  });
}

// `asks`: this is the message that the request is about. Images beside tool results belong to
// those.
void read_user(const At& message, bool asks, Conversation& conversation) {
  const At content = message.at("content");
  Message said;
  said.role = Role::user;
  said.place = message.path();
  if (content.value().is_string()) {
    said.content = content.string();
    conversation.push_back(std::move(said));
    return;
  }
  content.expect(content.value().is_array(), "a string or a list of blocks");
  const bool results = holds_results(content);
  bool spoke = false;
  for (size_t i = 0; i < content.array_size(); ++i) {
    const At block = content.at(i);
    const std::string& type = block.at("type").string();
    if (type == "tool_result") {
      if (spoke) fail("{}: tool results come before the text of a message", block.path());
      read_result(block, conversation);
      continue;
    }
    const std::optional<std::string> text = text_of_part(block);
    const bool known = is_one_of(type, {"image", "document", "container_upload"});
    if (!text && (!known || (asks && !results))) refuse_block(block, "text or tool_result");
    add_block(said.content, text.value_or(placeholder_of(type)));
    spoke = true;
  }
  if (spoke || !results) conversation.push_back(std::move(said));
}

// Blocks in which other servers record what they did themselves; the text says what came of it.
bool is_foreign(std::string_view type) {
  return type.ends_with("_tool_result") ||
         is_one_of(type, {"redacted_thinking", "server_tool_use", "mcp_tool_use",
                          "mcp_tool_listing", "container_upload", "fallback"});
}

void read_assistant(const At& message, Conversation& conversation) {
  const At content = message.at("content");
  Message said;
  said.role = Role::assistant;
  said.place = message.path();
  if (content.value().is_string()) {
    said.content = content.string();
  } else {
    content.expect(content.value().is_array(), "a string or a list of blocks");
    for (size_t i = 0; i < content.array_size(); ++i) {
      const At block = content.at(i);
      const std::string& type = block.at("type").string();
      if (type == "text") {
        add_block(said.content, block.at("text").string());
      } else if (type == "compaction") {
        add_block(said.content, string_or_none(block.at("content")));
      } else if (type == "thinking") {
        said.reasoning_content += block.at("thinking").string();
      } else if (is_foreign(type)) {
        continue;
      } else if (type == "tool_use") {
        ToolCall call;
        call.id = block.at("id").string();
        call.name = block.at("name").string();
        if (call.name.empty()) fail("{}: expected a name, found \"\"", block.at("name").path());
        call.arguments = python_dumps(block.at("input").object());
        said.tool_calls.push_back(std::move(call));
      } else {
        refuse_block(block, "text, thinking, redacted_thinking or tool_use");
      }
    }
  }
  conversation.push_back(std::move(said));
}

}  // namespace

Conversation conversation_of_messages(const OrderedJson& request) {
  const At root(request, "");
  Conversation conversation;
  Message system;
  system.role = Role::system;
  system.place = "system";
  system.content = read_text(root.at("system"));
  if (!system.content.empty()) conversation.push_back(std::move(system));
  const At messages = root.at("messages");
  if (messages.array_size() == 0) fail("messages: expected at least one, found none");
  const std::optional<size_t> asking = asking_message(messages.value());
  for (size_t i = 0; i < messages.array_size(); ++i) {
    const At message = messages.at(i);
    const std::string& role = message.at("role").string();
    if (role == "user") {
      read_user(message, asking == i, conversation);
    } else if (role == "assistant") {
      read_assistant(message, conversation);
    } else if (role == "system") {
      Message m;
      m.role = Role::system;
      m.place = message.path();
      m.content = read_text(message.at("content"));
      conversation.push_back(std::move(m));
    } else {
      fail("{}: expected user, assistant or system, found '{}'", message.at("role").path(), role);
    }
  }
  results_to_their_calls(conversation);
  return conversation;
}

}  // namespace fathom::server
