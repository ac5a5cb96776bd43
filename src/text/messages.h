// A conversation: the messages of an OpenAI-style request, or DeepSeek's own form of them.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "text/json_reader.h"
#include "text/python_json.h"

namespace fathom {

enum class Role { system, developer, user, assistant, tool };
std::string_view role_name(Role role);

struct ToolCall {
  std::string id;
  std::string name;
  // The text of a JSON object within text/json_limits.h, as the model or the client wrote it. In an
  // answer whose call was cut or became unreadable it is only the beginning of an object, perhaps
  // empty.
  std::string arguments;

  bool operator==(const ToolCall&) const = default;
};

struct Message {
  Role role = Role::user;
  std::string content;
  std::string reasoning_content;     // assistant
  std::vector<ToolCall> tool_calls;  // assistant
  std::string tool_call_id;          // tool; empty: results answer the calls in order
  OrderedJson tools;                 // system, developer: array of function objects, or null
  OrderedJson response_format;       // system, developer: any value, or null
  // The message's name in errors: its place in the client's request ("messages[2]", "input[0]").
  // Empty: errors name its index in the conversation.
  std::string place = {};
};

using Conversation = std::vector<Message>;

// Returns the name of the message at `index` for an error.
std::string place_of_message(const Conversation& conversation, size_t index);

// Reads an array of messages, or an object with `messages` and perhaps `tools` and
// `response_format`. These two are given to the first system message; if there is none, an empty
// one is put first. Throws Error for what is missing or wrong, also for a tool result without a
// call. The error begins with `where` (unless that is empty) and the place in the document.
Conversation parse_conversation(std::string_view json_text, std::string_view where);
Conversation conversation_of(const OrderedJson& document, std::string_view where);

// Reads the arguments of a call in a history: a JSON object or its text. null and blank text, which
// clients send for no arguments, mean {}. Throws Error for text beyond text/json_limits.h. Whether
// the text is JSON is checked by the encoding that needs it parsed.
std::string read_arguments(const JsonAt<OrderedJson>& at);

// Moves tool results to right behind the assistant message whose calls they answer, as the
// encodings need it; messages that stood between them come after. A result is moved if the last
// assistant message before it has a call of its id.
void results_to_their_calls(Conversation& conversation);

// Throws Error unless every tool result follows the assistant message that asked for it.
void check_tool_results(const Conversation& conversation);

// For each tool result right behind the assistant message at `assistant`: returns the index of the
// call that it answers, by tool_call_id, else in order. Throws Error for a result without a call.
std::vector<size_t> answered_calls(const Conversation& conversation, size_t assistant);

// OpenAI's form of an assistant message: content is null if there are only tool calls.
OrderedJson message_to_json(const Message& message);

}  // namespace fathom
