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
  // The text of a JSON object within text/json_limits.h, as the model or the client wrote it. Of an
  // answer's call that was cut or became unreadable, the beginning of one; it may be empty.
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
  // What errors call it: where the client put it ("messages[2]", "input[0]"), whatever else has
  // become part of the conversation. Empty: its index there.
  std::string place = {};
};

using Conversation = std::vector<Message>;

// What an error calls the message at `index`.
std::string place_of_message(const Conversation& conversation, size_t index);

// Reads an array of messages, or an object with `messages` and perhaps `tools` and
// `response_format`, which go to the first system message (an empty one is put first where there is
// none). Throws Error, led by `where` (unless that is empty) and the place in the file, for what is
// missing or wrong, a tool result without a call included.
Conversation parse_conversation(std::string_view json_text, std::string_view where);
Conversation conversation_of(const OrderedJson& document, std::string_view where);

// The arguments of a call in a history: a JSON object or its text. Clients that have none send null
// or blank text, which means {}. Throws Error for text beyond text/json_limits.h; whether it is
// JSON is left to the encoding that has to read it.
std::string read_arguments(const JsonAt<OrderedJson>& at);

// Moves tool results in front of the messages that were said between them and their calls: a word
// of the user's, instructions. Results belong to the last assistant message before them that has
// calls of their ids; the encodings write them right behind it.
void results_to_their_calls(Conversation& conversation);

// Throws Error unless every tool result follows the assistant message that asked for it.
void check_tool_results(const Conversation& conversation);

// Which call of the assistant message at `assistant` each of the tool results right behind it
// answers: by tool_call_id, else in order. Throws Error for a result without its call.
std::vector<size_t> answered_calls(const Conversation& conversation, size_t assistant);

// OpenAI's form of an assistant message: content is null where there is none beside tool calls.
OrderedJson message_to_json(const Message& message);

}  // namespace fathom
