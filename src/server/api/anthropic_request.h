// Reads the body of /v1/messages.
#pragma once

#include "server/api/chat_turn.h"

namespace fathom::server {

struct MessagesRequest {
  ChatRequest chat;
  bool omit_thinking = false;  // answer with empty thinking blocks
};

// Reads a request; does not check the model's name. With `count_only` (count_tokens) max_tokens may
// be absent. Throws Error with the place for what is wrong, and for fields that this server knows
// but does not support. Unknown fields are ignored.
MessagesRequest read_messages_request(const OrderedJson& body, const ServiceOptions& options,
                                      bool count_only);

}  // namespace fathom::server
