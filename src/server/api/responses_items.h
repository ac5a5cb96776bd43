// Items of /v1/responses (messages, reasoning, function calls and their outputs) as the messages of
// a conversation.
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "server/api/tool_request.h"
#include "text/messages.h"

namespace fathom::server {

// The stored output item with this id, if there is one.
using ItemLookup = std::function<std::optional<OrderedJson>(const std::string& id)>;

// Appends `input` (a text, which is the user's, or a list of items) to `conversation`. What the
// model gave out between two turns of others becomes one assistant message: reasoning, text and
// calls. A developer speaks as the system does. Calls of other servers' tools that have an output
// are told as calls; of what else is not known the types are returned, and it is skipped. Throws
// Error, led by the place ("input[2].type"), for what cannot be read, for images and files that the
// request is about, and for an item_reference that `lookup` does not know.
std::set<std::string> append_items(const OrderedJson& input, std::string_view where,
                                   const ItemLookup& lookup, const ToolNames& names,
                                   Conversation& conversation);

}  // namespace fathom::server
