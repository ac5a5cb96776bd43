// Reads the body of /v1/responses.
#pragma once

#include <string>

#include "server/api/chat_turn.h"
#include "server/api/responses_items.h"
#include "server/api/responses_store.h"

namespace fathom::server {

struct ResponsesRequest {
  ChatRequest chat;
  // Stored with `store`: the conversation without instructions and tools.
  Conversation history;
  OrderedJson input;     // a list of items with ids
  OrderedJson response;  // the response object so far: id, model and echoed fields
  bool store = true;
};

// Reads a request whose response gets the id `id`; does not check the model's name. Throws Error
// with the place for what is wrong, for fields that this server knows but does not support, and for
// a previous response that `stored` does not have. Unknown fields are ignored.
ResponsesRequest read_responses_request(const OrderedJson& body, const ServiceOptions& options,
                                        ResponseStore& stored, const std::string& id);

}  // namespace fathom::server
