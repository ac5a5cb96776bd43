// Parts of messages that are not text: images, files, sound. This model reads text only. In a
// conversation such parts are replaced by a placeholder; a request that asks about one is refused.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "text/json_reader.h"
#include "text/python_json.h"

namespace fathom::server {

// Returns the text that the model reads instead of a part of this type: "[image: this model reads
// text alone]".
std::string placeholder_of(std::string_view type);

// Returns the text of a part, if it has one: text in any protocol's spelling, refusals, text
// documents, search results.
std::optional<std::string> text_of_part(const JsonAt<OrderedJson>& part);

// Returns the message that asks: the last one, if it is the user's; instructions may follow it.
// Nothing if the last one is the model's or a tool's result. `list` holds messages or items.
std::optional<size_t> asking_message(const OrderedJson& list);

// Returns `messages` of the chat endpoint with all other parts replaced by placeholders. Throws
// Error, with the place, for such a part in the message that asks.
OrderedJson with_text_parts(const JsonAt<OrderedJson>& messages);

}  // namespace fathom::server
