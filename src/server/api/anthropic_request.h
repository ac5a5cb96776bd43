// Reads the body of /v1/messages.
#pragma once

#include "server/api/chat_turn.h"

namespace fathom::server {

struct MessagesRequest {
  ChatRequest chat;
  bool omit_thinking = false;  // answer with empty thinking blocks
};

// Reads a request; the model's name is not looked at. With `count_only` (count_tokens) max_tokens
// may be absent. Throws Error with the place for what is wrong, and for what this server knows but
// cannot do. Unknown fields are ignored.
MessagesRequest read_messages_request(const OrderedJson& body, const ServiceOptions& options,
                                      bool count_only);

}  // namespace fathom::server
