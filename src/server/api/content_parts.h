// Parts of messages that are not text: images, files, sound. This model reads text alone, so that a
// conversation with one of them goes on with a word in its place, and a request that is about one
// is refused.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "text/json_reader.h"
#include "text/python_json.h"

namespace fathom::server {

// What the model reads in place of a part of this type: "[image: this model reads text alone]".
std::string placeholder_of(std::string_view type);

// The text of a part, if it has one: text in any protocol's spelling, refusals, documents that are
// text themselves, search results.
std::optional<std::string> text_of_part(const JsonAt<OrderedJson>& part);

// The message that the request asks about: the last one, if it is the user's; instructions may
// follow it. `list` holds messages or items. None: the model's turn or a tool's result is last.
std::optional<size_t> asking_message(const OrderedJson& list);

// `messages` of the chat endpoint in which every part is text: the others have become placeholders,
// but for those of the message that asks. Throws Error with the place of such a part.
OrderedJson with_text_parts(const JsonAt<OrderedJson>& messages);

}  // namespace fathom::server
