// StreamDecoder turns token ids into whole UTF-8 characters as they arrive. Its results, with that
// of flush(), add up to exactly Tokenizer::decode of all ids.
#pragma once

#include <cstdint>
#include <string>

#include "text/tokenizer.h"

namespace fathom {

class StreamDecoder {
 public:
  // `tokenizer` must outlive the decoder.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = false)
      : tokenizer_(&tokenizer), skip_special_(skip_special) {}

  // Returns the characters that this token completes, often none.
  std::string push(int32_t id);

  // Returns what is left at the end: U+FFFD for an incomplete character.
  std::string flush();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string pending_;  // the beginning of a character, at most three bytes
};

}  // namespace fathom
