#include "cli/answer.h"

#include <fmt/format.h>

namespace fathom::cli {

Answer::Answer(const Tokenizer& tokenizer, Encoding encoding, bool thinking, bool raw, Show show)
    : raw_(raw),
      show_(std::move(show)),
      visible_(tokenizer, true),
      reader_(tokenizer, {encoding, !raw, thinking, {}}) {}

void Answer::take(const TokenEvent& event) {
  CompletionParser::Events pieces;
  if (event.token >= 0) {
    ids_.push_back(event.token);
    // The stop token is not part of the text. The reader would show one whose spelling is not
    // special.
    if (event.finish != Finish::stop) {
      reader_.push(event.token, pieces);
      show(visible_.push(event.token), pieces);
    }
  }
  finish_ = event.finish;
  error_ = event.error;
  stats_ = *event.stats;
  if (!ended()) return;
  pieces.clear();
  reader_.finish(pieces, finish_ != Finish::stop);
  show(visible_.flush(), pieces);
}

void Answer::show(const std::string& visible, const CompletionParser::Events& pieces) {
  text_ += visible;
  if (show_ && (!visible.empty() || !pieces.empty())) show_(visible, pieces);
}

std::string Answer::finish_reason() const {
  if (finish_ == Finish::stop && !raw_) return std::string(reader_.finish_reason());
  return name_of(finish_);
}

nlohmann::ordered_json Answer::to_json() const {
  const RequestStats& s = stats_;
  auto rate = [](int64_t n, double seconds) {
    return seconds > 0 ? static_cast<double>(n) / seconds : 0.0;
  };
  nlohmann::ordered_json json;
  if (failed()) {
    json["error"]["message"] = error_;
  } else if (raw_) {
    json["text"] = text_;
  } else {
    json["message"] = message_to_json(message());
  }
  json["finish_reason"] = finish_reason();
  json["token_ids"] = ids_;
  json["usage"] = {{"prompt_tokens", s.prompt_tokens},
                   {"completion_tokens", s.generated_tokens},
                   {"total_tokens", s.prompt_tokens + s.generated_tokens},
                   {"prompt_tokens_details", {{"cached_tokens", s.reused_tokens}}}};
  if (s.draft_tokens > 0)
    json["usage"]["completion_tokens_details"] = {
        {"accepted_prediction_tokens", s.accepted_tokens},
        {"rejected_prediction_tokens", s.draft_tokens - s.accepted_tokens}};
  json["timings"] = {
      {"first_token_seconds", s.first_token_seconds},
      {"decode_seconds", s.decode_seconds},
      {"prompt_per_second", rate(s.prompt_tokens - s.reused_tokens, s.first_token_seconds)},
      {"generated_per_second", rate(s.generated_tokens - 1, s.decode_seconds)}};
  return json;
}

std::string Speed::text() const {
  std::string text =
      fmt::format("prompt: {} tokens, {:.1f} tokens/s; generation: {} tokens, {:.1f} tokens/s",
                  prompt_tokens, prompt_rate(), generated_tokens, generation_rate());
  const SpeculationStats& s = speculation;
  if (s.drafts == 0) return text;
  std::string places;
  for (size_t i = 0; i < s.accepted_at.size() && s.accepted_at[i] > 0; ++i)
    places += fmt::format("{}{}", i > 0 ? ", " : "", s.accepted_at[i]);
  return text +
         fmt::format("; drafts: {} of {} accepted{}, {:.2f} tokens a step with drafts",
                     s.accepted_tokens, s.draft_tokens,
                     s.accepted_at[1] > 0 ? fmt::format(" (by place: {})", places) : "",
                     1 + static_cast<double>(s.accepted_tokens) / static_cast<double>(s.drafts));
}

}  // namespace fathom::cli
