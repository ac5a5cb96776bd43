#include "server/api/legacy_logprobs.h"

#include <algorithm>
#include <utility>

#include "server/api/openai_format.h"

namespace fathom::server {
namespace {

int64_t characters(std::string_view utf8) {
  return std::count_if(utf8.begin(), utf8.end(),
                       [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; });
}

}  // namespace

void LegacyLogprobs::add_prompt(const std::vector<int32_t>& ids,
                                const std::vector<TokenLogprobs>& logprobs) {
  for (size_t i = 0; i < ids.size(); ++i)
    add(ids[i], i > 0 && i <= logprobs.size() ? &logprobs[i - 1] : nullptr, prompt_);
  offset_ += characters(prompt_.flush());
}

void LegacyLogprobs::add_answer(const std::vector<TokenLogprobs>& logprobs) {
  for (const TokenLogprobs& token : logprobs) add(token.token, &token, answer_);
}

void LegacyLogprobs::add(int32_t id, const TokenLogprobs* logprobs, StreamDecoder& decoder) {
  tokens_.push_back(token_text(tokenizer_, id));
  offsets_.push_back(offset_);
  offset_ += characters(decoder.push(id));
  if (!logprobs) {
    logprobs_.push_back(nullptr);
    top_.push_back(nullptr);
    return;
  }
  logprobs_.push_back(json_logprob(logprobs->logprob));
  // The alternatives by their text (of two that read alike, the better one), and the token itself.
  OrderedJson top = OrderedJson::object();
  for (const auto& [other, logprob] : logprobs->top) {
    const std::string text = token_text(tokenizer_, other);
    if (!top.contains(text)) top[text] = json_logprob(logprob);
  }
  const std::string own = token_text(tokenizer_, id);
  if (!top.contains(own)) top[own] = json_logprob(logprobs->logprob);
  top_.push_back(std::move(top));
}

OrderedJson LegacyLogprobs::take() {
  if (tokens_.empty()) return nullptr;
  OrderedJson json;
  json["tokens"] = std::exchange(tokens_, OrderedJson::array());
  json["token_logprobs"] = std::exchange(logprobs_, OrderedJson::array());
  json["top_logprobs"] = std::exchange(top_, OrderedJson::array());
  json["text_offset"] = std::exchange(offsets_, OrderedJson::array());
  return json;
}

}  // namespace fathom::server
