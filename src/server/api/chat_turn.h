// What /v1/responses and /v1/messages have in common behind their own wording: tools, the form of
// the answer, and the way from a conversation to a generation.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "server/api/chat_request.h"

namespace fathom::server {

struct ToolUse {
  enum class Mode { none, automatic, required, named };
  Mode mode = Mode::automatic;
  std::vector<OrderedJson> functions;  // name, description, parameters
  std::string name;                    // of mode named
  bool parallel = true;
};

// Puts the tools into the conversation's first system message (an empty one is put first where
// there is none) and what must be called into the form. Throws Error, led by `where`, when a tool
// must be called that is not there.
void apply_tools(const ToolUse& tools, std::string_view where, ChatRequest& chat);

// The answer's form by OpenAI's response format ({"type": "json_schema", "json_schema": {...}} and
// the others), which the encodings that have a place for it are told too. After apply_tools. Throws
// Error, led by `where`, where it cannot be kept to.
void apply_format(const OrderedJson& format, std::string_view where, ChatRequest& chat);

// Renders the prompt and compiles the form into chat.generation. Throws Error for a conversation
// that leaves nothing to answer or that the encoding cannot express.
std::optional<Failure> prepare(Service& service, ChatRequest& chat);

}  // namespace fathom::server
