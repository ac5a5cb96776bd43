// Shared by all chat protocols once a request is read: tools, the form of the answer, and the steps
// from a conversation to a generation.
#pragma once

#include <optional>

#include "server/api/chat_request.h"
#include "server/api/tool_request.h"

namespace fathom::server {

// Adds the tools to the conversation's first system message (an empty one is put first if there is
// none), and the calls that are required to the form.
void apply_tools(const ToolUse& use, ChatRequest& chat);

// Whether the model is shown any tool.
bool has_tools(const Conversation& conversation);

// Reads the format of the answer, which each protocol has in another field (response_format,
// text.format, output_config.format). Adds it to the form and, if the model is shown formats, to
// the first system message. Call it after apply_tools. Returns the format as the chat endpoint
// writes it: {"type": "json_schema", "json_schema": {...}} and the others. Throws Error with the
// place for what is wrong.
OrderedJson apply_format(const JsonField& root, Protocol protocol, const ServiceOptions& options,
                         ChatRequest& chat);

// Renders the prompt and compiles the form into chat.generation. Returns a Failure if the form is
// not supported. Throws Error if the conversation has nothing to answer or the encoding cannot
// express it.
std::optional<Failure> prepare(Service& service, ChatRequest& chat);

// Adds the tools and items that the model is not shown to the request's log line.
void note_left_out(HttpReply& reply, const ChatRequest& chat);

}  // namespace fathom::server
