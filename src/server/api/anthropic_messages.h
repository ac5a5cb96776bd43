// The messages and system texts of /v1/messages as a conversation.
#pragma once

#include "text/messages.h"

namespace fathom::server {

// Reads `system` and `messages` of a request. A user message with tool results becomes those
// results, then what else it says. Blocks of text are joined by blank lines; images and files have
// a word in their place, unless the message that asks has them. Throws Error, led by the place
// ("messages[2].content[0].type"), for what is missing, out of place or cannot be read.
Conversation conversation_of_messages(const OrderedJson& request);

}  // namespace fathom::server
