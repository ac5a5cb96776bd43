#include "eval/prompts.h"

#include <algorithm>

#include "text/utf8.h"

namespace fathom::eval {

std::vector<int32_t> front_of(const Tokenizer& tokenizer) {
  // Encodes a letter to see which tokens the tokenizer adds before a text.
  std::vector<int32_t> ids = tokenizer.encode("a");
  const std::vector<int32_t> letter = tokenizer.encode_plain("a");
  const auto at = std::search(ids.begin(), ids.end(), letter.begin(), letter.end());
  ids.erase(at, ids.end());
  return ids;
}

std::vector<int32_t> Prompts::prompt(std::string_view text) const {
  require_utf8(text, "the prompt");
  if (!chat_) {
    std::vector<int32_t> ids = front_of(tokenizer_);
    tokenizer_.encode_plain(text, ids);
    return ids;
  }
  Message message;
  message.role = Role::user;
  message.content = std::string(text);
  return encode_segments(tokenizer_, render({message}, {encoding_, thinking_, false}));
}

Prompts::Continued Prompts::continued(std::string_view text, std::string_view continuation) const {
  require_utf8(continuation, "the continuation");
  std::vector<int32_t> before = prompt(text);
  if (chat_) {
    const auto from = static_cast<int64_t>(before.size());
    tokenizer_.encode_plain(continuation, before);
    return {std::move(before), from};
  }
  std::vector<int32_t> ids = prompt(std::string(text) + std::string(continuation));
  const auto differs = std::mismatch(before.begin(), before.end(), ids.begin(), ids.end()).second;
  const auto from = differs - ids.begin();
  return {std::move(ids), from};
}

}  // namespace fathom::eval
