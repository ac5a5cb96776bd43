// The v3.1 encoding: DeepSeek-V3.1, V3.1-Terminus and V3.2-Exp, whose folders carry a
// chat_template.
#pragma once

#include <vector>

#include "text/messages.h"
#include "text/prompt.h"

namespace fathom {

// Renders a conversation. System messages move to the front; reasoning of past turns is dropped.
// After a last message of the user the prompt opens the answer: with <think> if `thinking`, else
// with </think>. After tool results it adds nothing. This encoding has no response format, which is
// left out, and no developer messages, for which it throws Error.
std::vector<Segment> render_v31(const Conversation& conversation, bool thinking);

}  // namespace fathom
