// The messages and system texts of /v1/messages as a conversation.
#pragma once

#include "text/messages.h"

namespace fathom::server {

// Reads `system` and `messages` of a request. A user message with tool results becomes those
// results, followed by its other content. Blocks of text are joined by blank lines. Images and
// files are replaced by a placeholder. Throws Error for what is missing, out of place or cannot be
// read, also for images and files in the message that asks. The error begins with the place
// ("messages[2].content[0].type").
Conversation conversation_of_messages(const OrderedJson& request);

}  // namespace fathom::server
