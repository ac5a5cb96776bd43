#include "server/choice_reader.h"

namespace fathom::server {

KeptToken KeptToken::of(const TokenEvent& event) {
  KeptToken kept{event.token, event.finish, {}, nullptr};
  if (event.stats) kept.stats = *event.stats;
  if (!event.error.empty() || event.logprobs || !event.prompt_logprobs.empty()) {
    kept.extra = std::make_unique<Extra>();
    kept.extra->error = event.error;
    if (event.logprobs) kept.extra->logprobs.push_back(*event.logprobs);
    kept.extra->prompt_logprobs.assign(event.prompt_logprobs.begin(), event.prompt_logprobs.end());
  }
  return kept;
}

ChoiceReader::ChoiceReader(const Service& service, const GenerationRequest& request, std::string id,
                           int choice)
    : id_(std::move(id)),
      choice_(choice),
      chat_(request.chat),
      min_new_tokens_(request.rules.min_new_tokens),
      reader_(service.tokenizer, {service.options.encoding, request.chat, request.thinking,
                                  request.stop, request.single_call}) {}

void ChoiceReader::take(KeptToken token, GenerationEvent& event) {
  stats_ = token.stats;
  event.choice = choice_;
  if (token.extra && !token.extra->prompt_logprobs.empty())
    event.prompt_logprobs = std::move(token.extra->prompt_logprobs);
  if (token.token >= 0 && token.extra && !token.extra->logprobs.empty())
    held_.push_back({reader_.text_bytes(), std::move(token.extra->logprobs.front())});
  // The token that ends an answer is no text.
  if (token.token >= 0 && token.finish != Finish::stop) {
    reasoning_tokens_ += reader_.in_reasoning();
    reader_.push(token.token, event.pieces, stats_.generated_tokens > min_new_tokens_);
  }
  if (token.finish == Finish::error)
    return fail({500, token.extra ? token.extra->error : std::string("the engine failed")}, event);
  // This server stops listening to a choice before it cancels it, so this cancellation is not ours:
  // the engine is shutting down.
  if (token.finish == Finish::cancelled)
    return fail({503, "the server is shutting down: the answer is not complete"}, event);
  // An answer that reached the limit counts as cut, even if the end of its text completes a partial
  // call.
  const bool cut = token.finish == Finish::length && !reader_.stopped();
  if (token.finish != Finish::none && !reader_.stopped()) reader_.finish(event.pieces, cut);
  release_logprobs(token.finish != Finish::none || reader_.stopped(), event);
  event.stats = stats_;
  event.reasoning_tokens = reasoning_tokens_;
  if (cut)
    end("length", event);
  else if (reader_.stopped() || token.finish != Finish::none)
    end(reader_.finish_reason(), event);
}

void ChoiceReader::fail(const Failure& failure, GenerationEvent& event) {
  event.choice = choice_;
  event.stats = stats_;
  event.reasoning_tokens = reasoning_tokens_;
  event.ended = ended_ = true;
  event.finish_reason = "error";
  event.failure = failure;
}

// Releases the log-probabilities of tokens whose text begins before what is decided. At the end
// (`all`) also the others: tokens of a stop text and the final token were generated, and usage
// counts them. Clients that match log-probabilities to tokens by position would otherwise miss
// some.
void ChoiceReader::release_logprobs(bool all, GenerationEvent& event) {
  if (held_.empty()) return;
  const size_t decided = reader_.decided();
  while (!held_.empty() && (all || held_.front().begin < decided)) {
    event.logprobs.push_back(std::move(held_.front().logprobs));
    held_.pop_front();
  }
}

void ChoiceReader::end(std::string_view reason, GenerationEvent& event) {
  event.ended = ended_ = true;
  event.finish_reason = reason;
  event.stop_text = reader_.stop_text();
  if (!chat_) return;
  message_ = reader_.message();
  for (size_t i = 0; i < message_.tool_calls.size(); ++i)
    message_.tool_calls[i].id = tool_call_id(id_, choice_, i);
  event.message = &message_;
}

}  // namespace fathom::server
