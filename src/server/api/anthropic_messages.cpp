#include "server/api/anthropic_messages.h"

#include <utility>

#include "text/json_reader.h"

namespace fathom::server {
namespace {

using At = JsonAt<OrderedJson>;

void add_block(std::string& text, std::string_view block) {
  if (!text.empty() && !block.empty()) text += "\n\n";
  text += block;
}

// A string or blocks of type text alone: system texts and tool results.
std::string read_text(const At& at) {
  if (at.null()) return {};
  if (at.value().is_string()) return at.string();
  at.expect(at.value().is_array(), "a string or a list of text blocks");
  std::string text;
  for (size_t i = 0; i < at.array_size(); ++i) {
    const At block = at.at(i);
    const std::string& type = block.at("type").string();
    if (type != "text") {
      fail("{}: this model takes text alone: expected 'text', found '{}'", block.at("type").path(),
           type);
    }
    add_block(text, block.at("text").string());
  }
  return text;
}

[[noreturn]] void refuse_block(const At& block, std::string_view accepted) {
  fail("{}: expected {}, found '{}'", block.at("type").path(), accepted, block.at("type").string());
}

void read_user(const At& message, Conversation& conversation) {
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
  bool spoke = false;
  bool results = false;
  for (size_t i = 0; i < content.array_size(); ++i) {
    const At block = content.at(i);
    const std::string& type = block.at("type").string();
    if (type == "text") {
      add_block(said.content, block.at("text").string());
      spoke = true;
    } else if (type == "tool_result") {
      if (spoke) fail("{}: tool results come before the text of a message", block.path());
      Message result;
      result.role = Role::tool;
      result.place = block.path();
      result.tool_call_id = block.at("tool_use_id").string();
      // The templates have no place for failure but the text.
      if (block.at("is_error").boolean_or(false)) result.content = "Error: ";
      result.content += read_text(block.at("content"));
      conversation.push_back(std::move(result));
      results = true;
    } else {
      refuse_block(block, "text or tool_result");
    }
  }
  if (spoke || !results) conversation.push_back(std::move(said));
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
      } else if (type == "thinking") {
        said.reasoning_content += block.at("thinking").string();
      } else if (type == "redacted_thinking") {
        continue;  // another model's: there is nothing to read
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
  for (size_t i = 0; i < messages.array_size(); ++i) {
    const At message = messages.at(i);
    const std::string& role = message.at("role").string();
    if (role == "user") {
      read_user(message, conversation);
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
  const Role last = conversation.back().role;
  if (last != Role::user && last != Role::tool) {
    fail(
        "messages: the last one must be the user's: answers begun by the client are not continued");
  }
  return conversation;
}

}  // namespace fathom::server
