// Reads the body of /v1/responses.
#pragma once

#include <string>

#include "server/api/chat_turn.h"
#include "server/api/responses_items.h"
#include "server/api/responses_store.h"

namespace fathom::server {

struct ResponsesRequest {
  ChatRequest chat;
  // What is remembered with `store`: the conversation without instructions and tools.
  Conversation history;
  OrderedJson input;     // a list of items with ids
  OrderedJson response;  // the response object so far: id, model and what is echoed
  bool store = true;
};

// Reads a request that will be known as `id`; the model's name is not looked at. Throws Error with
// the place for what is wrong, for what this server knows but cannot do, and for a previous
// response that `stored` does not have. Unknown fields are ignored.
ResponsesRequest read_responses_request(const OrderedJson& body, const ServiceOptions& options,
                                        ResponseStore& stored, const std::string& id);

}  // namespace fathom::server
