// Turns items of /v1/responses (messages, reasoning, function calls and their outputs) into the
// messages of a conversation.
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "server/api/tool_request.h"
#include "text/messages.h"

namespace fathom::server {

// Returns the stored output item with this id, if there is one.
using ItemLookup = std::function<std::optional<OrderedJson>(const std::string& id)>;

// Appends `input` (a text of the user, or a list of items) to `conversation`. Consecutive output
// items of the model (reasoning, text and calls) become one assistant message. Developer messages
// become system messages. Calls of other servers' tools that have an output become tool calls.
// Items of other types are skipped; their types are returned.
//
// Throws Error for what cannot be read, for images and files in the message that asks, and for an
// item_reference that `lookup` does not know. The error begins with the place ("input[2].type").
std::set<std::string> append_items(const OrderedJson& input, std::string_view where,
                                   const ItemLookup& lookup, const ToolNames& names,
                                   Conversation& conversation);

}  // namespace fathom::server
