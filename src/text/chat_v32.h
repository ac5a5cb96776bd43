// The v3.2 encoding: DeepSeek-V3.2 and V3.2-Speciale, whose folders carry no template. Tool calls
// are written in DSML tags.
#pragma once

#include <vector>

#include "text/messages.h"
#include "text/prompt.h"

namespace fathom {

// The text in front of the response format.
inline constexpr std::string_view kResponseFormatHead =
    "## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n";

// Renders a conversation. In thinking mode the last user or developer message divides it: reasoning
// before that message is left out, and so are developer messages before it unless `keep_earlier`.
//
// Throws Error for an assistant message after it that has neither reasoning nor calls, for calls
// whose arguments are no JSON object, and for tool results that leave a call of their message
// unanswered.
std::vector<Segment> render_v32(const Conversation& conversation, bool thinking,
                                bool keep_earlier = false);

}  // namespace fathom
