// The v3.2 encoding: DeepSeek-V3.2 and V3.2-Speciale, whose folders carry no template. Tool calls
// are written in DSML tags.
#pragma once

#include <vector>

#include "text/messages.h"
#include "text/prompt.h"

namespace fathom {

// What the encoding says in front of the format that an answer must have.
inline constexpr std::string_view kResponseFormatHead =
    "## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n";

// In thinking mode, developer messages before the last user or developer message are left out,
// unless `keep_earlier`; reasoning before it is left out always. Throws Error for an assistant
// message after it that neither reasons nor calls, for calls whose arguments are no JSON object,
// and for tool results that leave a call of their message unanswered.
std::vector<Segment> render_v32(const Conversation& conversation, bool thinking,
                                bool keep_earlier = false);

}  // namespace fathom
