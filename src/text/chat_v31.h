// The v3.1 encoding: DeepSeek-V3.1, V3.1-Terminus and V3.2-Exp, whose folders carry a
// chat_template.
#pragma once

#include <vector>

#include "text/messages.h"
#include "text/prompt.h"

namespace fathom {

// System messages go to the front, reasoning of past turns is dropped. A conversation that ends
// with a user message opens the answer (`thinking` says with which tag); after tool results it
// simply goes on. The encoding has no place for a response format: it is left out. Throws Error for
// developer messages, which it has no place for either.
std::vector<Segment> render_v31(const Conversation& conversation, bool thinking);

}  // namespace fathom
