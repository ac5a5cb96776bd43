// `logprobs` as /v1/completions has them: parallel lists, with the place of each token in the text.
// An ended answer has an entry for every token that the usage counts: prompt_tokens (with echo) and
// completion_tokens. A token without text (a special one) has the place where the text continues or
// ends.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "runtime/request.h"
#include "text/python_json.h"
#include "text/stream_decoder.h"

namespace fathom::server {

// Thread-compatible. One object per choice: places continue from event to event.
class LegacyLogprobs {
 public:
  explicit LegacyLogprobs(const Tokenizer& tokenizer)
      : tokenizer_(tokenizer), prompt_(tokenizer), answer_(tokenizer, true) {}

  // Adds an echoed prompt. Its first token has no log-probability.
  void add_prompt(const std::vector<int32_t>& ids, const std::vector<TokenLogprobs>& logprobs);
  void add_answer(const std::vector<TokenLogprobs>& logprobs);

  // Returns what was added since the last call; null if nothing.
  OrderedJson take();

 private:
  void add(int32_t id, const TokenLogprobs* logprobs, StreamDecoder& decoder);

  const Tokenizer& tokenizer_;
  StreamDecoder prompt_, answer_;
  int64_t offset_ = 0;  // in characters (code points) from the beginning of the text
  OrderedJson tokens_ = OrderedJson::array(), logprobs_ = OrderedJson::array(),
              top_ = OrderedJson::array(), offsets_ = OrderedJson::array();
};

}  // namespace fathom::server
