// What the chat protocols have in common behind their own wording: tools, the form of the answer,
// and the way from a conversation to a generation.
#pragma once

#include <optional>

#include "server/api/chat_request.h"
#include "server/api/tool_request.h"

namespace fathom::server {

// Puts the tools into the conversation's first system message (an empty one is put first where
// there is none) and what must be called into the form.
void apply_tools(const ToolUse& use, ChatRequest& chat);

// Whether the model hears of any tool.
bool has_tools(const Conversation& conversation);

// Reads the format that the answer must have, wherever the protocol writes it (response_format,
// text.format, output_config.format), and puts it into the form and, where the model is shown
// formats, into the first system message. After apply_tools. Returns the format in the words of the
// chat endpoint: {"type": "json_schema", "json_schema": {...}} and the others. Throws Error with
// the place for what is wrong.
OrderedJson apply_format(const JsonField& root, Protocol protocol, const ServiceOptions& options,
                         ChatRequest& chat);

// Renders the prompt and compiles the form into chat.generation. Throws Error for a conversation
// that leaves nothing to answer or that the encoding cannot express.
std::optional<Failure> prepare(Service& service, ChatRequest& chat);

// Writes into the request's log line which tools and items its model does not hear of.
void note_left_out(HttpReply& reply, const ChatRequest& chat);

}  // namespace fathom::server
