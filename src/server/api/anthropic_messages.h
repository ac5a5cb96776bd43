// The messages and system texts of /v1/messages as a conversation.
#pragma once

#include "text/messages.h"

namespace fathom::server {

// Reads `system` and `messages` of a request. A user message with tool results becomes those
// results, then what else it says. Blocks of text are joined by blank lines. Throws Error, led by
// the place ("messages[2].content[0].type"), for what is missing, out of place or not text.
Conversation conversation_of_messages(const OrderedJson& request);

}  // namespace fathom::server
