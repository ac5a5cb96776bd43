// `logprobs` in the form of /v1/completions: parallel lists of tokens, their log-probabilities,
// alternatives, and offsets in the text.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "runtime/request.h"
#include "text/python_json.h"
#include "text/stream_decoder.h"

namespace fathom::server {

// Thread-compatible. One object a choice: places go on from event to event.
class LegacyLogprobs {
 public:
  explicit LegacyLogprobs(const Tokenizer& tokenizer)
      : tokenizer_(tokenizer), prompt_(tokenizer), answer_(tokenizer, true) {}

  // Of an echoed prompt: its first token has no log-probability.
  void add_prompt(const std::vector<int32_t>& ids, const std::vector<TokenLogprobs>& logprobs);
  void add_answer(const std::vector<TokenLogprobs>& logprobs);

  // What has been added since the last call; null for nothing.
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
