// Whose turn it is in a conversation, and where instructions stand that come in its middle.
#pragma once

#include "text/chat.h"
#include "text/messages.h"

namespace fathom::server {

// Neither encoding has a place for instructions behind the first turn: v3.1 moves them all to the
// front, where each new one would change the whole prompt behind it, and v3.2 writes them where the
// answer begins. So a system message that comes later becomes part of the user's turn next to it:
// of the one before, else of the one behind, else a turn of its own. `keep_v31`: not for the v3.1
// encoding, whose own rule holds.
void place_instructions(Conversation& conversation, Encoding encoding, bool keep_v31);

// What there is to answer. A conversation that ends in instructions, to which no turn of others
// leads, has them as the user's turn. One that ends in the assistant's text has it continued, and
// true is returned. `where` names the conversation. Throws Error for one that ends in tool calls
// without results.
bool settle_last_turn(Conversation& conversation, std::string_view where);

}  // namespace fathom::server
