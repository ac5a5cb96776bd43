#include "server/api/turns.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace fathom::server {
namespace {

// Tools and formats are attached to system messages; one that has them is not merged or moved.
bool is_instruction(const Message& m) {
  return m.role == Role::system && m.tools.is_null() && m.response_format.is_null();
}

void join(std::string& text, std::string_view more) {
  if (!text.empty() && !more.empty()) text += "\n\n";
  text += more;
}

}  // namespace

void place_instructions(Conversation& conversation, Encoding encoding, bool keep_v31) {
  if (encoding == Encoding::v31 && keep_v31) return;
  Conversation placed;
  bool begun = false;  // a turn has been taken
  for (size_t i = 0; i < conversation.size(); ++i) {
    Message& m = conversation[i];
    if (!begun || !is_instruction(m)) {
      begun = begun || m.role != Role::system;
      placed.push_back(std::move(m));
      continue;
    }
    const bool user_follows = i + 1 < conversation.size() && conversation[i + 1].role == Role::user;
    if (placed.back().role == Role::user) {
      join(placed.back().content, m.content);
    } else if (user_follows) {
      join(m.content, conversation[i + 1].content);
      conversation[i + 1].content = std::move(m.content);
    } else {
      m.role = Role::user;
      placed.push_back(std::move(m));
    }
  }
  conversation = std::move(placed);
}

bool settle_last_turn(Conversation& conversation, std::string_view where) {
  // An empty assistant message at the end stands for the answer that is yet to be given.
  while (!conversation.empty() && conversation.back().role == Role::assistant &&
         conversation.back().content.empty() && conversation.back().tool_calls.empty())
    conversation.pop_back();
  if (conversation.empty()) fail("{}: there is nothing to answer", where);
  const auto turn = std::find_if(conversation.rbegin(), conversation.rend(),
                                 [](const Message& m) { return m.role != Role::system; });
  const bool theirs = turn != conversation.rend() && turn->role != Role::assistant;
  if (theirs) return false;
  Message& last = conversation.back();
  if (last.role == Role::system) {
    if (!is_instruction(last))
      fail("{}: the last one has tools or a format, but nothing to answer", where);
    last.role = Role::user;
    return false;
  }
  if (!last.tool_calls.empty())
    fail("{}: its tool calls have no results, which leaves nothing to answer",
         place_of_message(conversation, conversation.size() - 1));
  return true;
}

}  // namespace fathom::server
