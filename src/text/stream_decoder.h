// Token ids in, whole UTF-8 characters out. The pieces handed out, flush() included, add up to
// exactly Tokenizer::decode of all ids.
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

  // What has become whole by this token; often nothing while a character is being built.
  std::string push(int32_t id);

  // What is left at the end: a character cut in half comes out as U+FFFD.
  std::string flush();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string pending_;  // the beginning of a character, at most three bytes
};

}  // namespace fathom
