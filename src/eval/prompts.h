// Turns the texts of a task into tokens.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat.h"
#include "text/tokenizer.h"

namespace fathom::eval {

// Returns the tokens that the tokenizer puts in front of every text: a beginning of sentence, or
// none.
std::vector<int32_t> front_of(const Tokenizer& tokenizer);

// Prompts as text that the model continues, or as a user's message that it answers.
class Prompts {
 public:
  Prompts(const Tokenizer& tokenizer, Encoding encoding, bool chat, bool thinking = false)
      : tokenizer_(tokenizer), encoding_(encoding), chat_(chat), thinking_(thinking) {}

  const Tokenizer& tokenizer() const { return tokenizer_; }
  bool chat() const { return chat_; }

  // Throws Error for text that is not UTF-8.
  std::vector<int32_t> prompt(std::string_view text) const;

  struct Continued {
    std::vector<int32_t> ids;
    int64_t from = 0;  // the continuation's first token
  };
  // Returns the ids of a prompt and its continuation. Without chat, both are encoded as one text,
  // because a word and the blank before it are one token. If that changes the prompt's last tokens,
  // the continuation begins with the first one that differs.
  Continued continued(std::string_view text, std::string_view continuation) const;

 private:
  const Tokenizer& tokenizer_;
  Encoding encoding_;
  bool chat_, thinking_;
};

}  // namespace fathom::eval
