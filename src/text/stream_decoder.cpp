#include "text/stream_decoder.h"

#include <utility>

#include "text/utf8.h"

namespace fathom {

std::string StreamDecoder::push(int32_t id) {
  if (skip_special_ && tokenizer_->is_special(id)) return {};
  pending_ += tokenizer_->token_bytes(id);
  const size_t whole = pending_.size() - incomplete_utf8_tail(pending_);
  std::string out = replace_invalid_utf8(std::string_view(pending_).substr(0, whole));
  pending_.erase(0, whole);
  return out;
}

std::string StreamDecoder::flush() { return replace_invalid_utf8(std::exchange(pending_, {})); }

}  // namespace fathom
