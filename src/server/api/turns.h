// Decides whose turn it is in a conversation, and places instructions that come in its middle.
#pragma once

#include "text/chat.h"
#include "text/messages.h"

namespace fathom::server {

// Neither encoding has a place for instructions after the first turn. v3.1 moves them all to the
// front, where each new one changes the whole prompt after it; v3.2 writes them where the answer
// begins. So a later system message becomes part of a user's turn: the one before it, else the one
// after it, else a turn of its own. `keep_v31`: leaves conversations in the v3.1 encoding as they
// are.
void place_instructions(Conversation& conversation, Encoding encoding, bool keep_v31);

// Makes sure that the conversation has something to answer. If it ends in instructions, and the
// last turn before them is not of the user or a tool, they become the user's turn. Returns true if
// it ends in the assistant's text, which the answer then continues. Throws Error if it ends in tool
// calls without results; `where` names the conversation in the message.
bool settle_last_turn(Conversation& conversation, std::string_view where);

}  // namespace fathom::server
