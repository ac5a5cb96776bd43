#include "eval/perplexity.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/check.h"
#include "base/error.h"
#include "eval/prompts.h"

namespace fathom::eval {

Perplexity::Perplexity(std::string name, const Tokenizer& tokenizer,
                       const std::vector<TextFile>& texts, const PerplexityOptions& options)
    : name_(std::move(name)),
      tokenizer_(tokenizer),
      options_(options),
      front_(front_of(tokenizer)) {
  const int64_t room = options.context - static_cast<int64_t>(front_.size());
  // Without a token before it (front_ is empty) the first token of a window cannot be scored.
  const int64_t most = room - (front_.empty() ? 1 : 0);
  if (most < 1) fail("a context of {} tokens has no room for a token to score", options.context);
  if (options_.stride == 0) options_.stride = most;
  if (options_.stride < 1 || options_.stride > most)
    fail("a stride of {} tokens: 1 to the {} that a window of {} can score are possible",
         options.stride, most, options.context);
  for (const TextFile& file : texts) {
    Text& text = texts_.emplace_back();
    text.path = file.path;
    try {
      text.ids = tokenizer.encode_plain(file.text);
    } catch (const Error& e) {
      fail("{}: {}", file.path, e.what());
    }
    // The first token needs a token before it, or it has no prediction.
    if (text.ids.size() + std::min<size_t>(1, front_.size()) < 2)
      fail("{}: {} tokens of text: there is nothing to predict", file.path, text.ids.size());
    cut(texts_.size() - 1, room);
  }
  if (options_.windows > 0 && windows_.size() > static_cast<size_t>(options_.windows))
    windows_.resize(static_cast<size_t>(options_.windows));
}

void Perplexity::cut(size_t text, int64_t room) {
  const auto n = static_cast<int64_t>(texts_[text].ids.size());
  int64_t scored = front_.empty() ? 1 : 0;  // tokens below are scored, or cannot be
  for (int64_t begin = 0; scored < n; begin += options_.stride) {
    const int64_t end = std::min(begin + room, n);
    windows_.push_back({text, begin, end, end - scored});
    scored = end;
  }
}

PageKey Perplexity::key() const {
  PageKey key = with(PageKey{}, "perplexity 1");
  key = with(key, front_);
  for (const Window& w : windows_) {
    key =
        with(key, std::span(texts_[w.text].ids)
                      .subspan(static_cast<size_t>(w.begin), static_cast<size_t>(w.end - w.begin)));
    key = extended(key, static_cast<uint64_t>(w.scored));
  }
  return key;
}

std::string Perplexity::where(size_t item) const {
  const Window& w = windows_[item];
  return fmt::format("{}: tokens {} to {}", texts_[w.text].path, w.begin, w.end);
}

std::vector<Ask> Perplexity::asks(size_t item) const {
  const Window& w = windows_[item];
  Ask ask;
  ask.ids = front_;
  const auto& ids = texts_[w.text].ids;
  ask.ids.insert(ask.ids.end(), ids.begin() + w.begin, ids.begin() + w.end);
  ask.score_from = static_cast<int64_t>(ask.ids.size()) - w.scored;
  return {std::move(ask)};
}

Record Perplexity::judge(size_t item, std::span<const Outcome> outcomes) const {
  const Window& w = windows_[item];
  const std::vector<float>& logprobs = outcomes[0].logprobs;
  FATHOM_CHECK(static_cast<int64_t>(logprobs.size()) == w.scored,
               "{} log-probabilities of {} tokens", logprobs.size(), w.scored);
  Record r;
  for (float p : logprobs) r.value -= static_cast<double>(p);
  r.weight = static_cast<double>(w.scored);
  size_t bytes = 0;
  for (int64_t i = w.end - w.scored; i < w.end; ++i)
    bytes += tokenizer_.token_bytes(texts_[w.text].ids[static_cast<size_t>(i)]).size();
  r.detail["bytes"] = bytes;
  return r;
}

Json Perplexity::extra(std::span<const Record> records) const {
  double nats = 0, tokens = 0, bytes = 0;
  for (const Record& r : records) {
    nats += r.value;
    tokens += r.weight;
    bytes += r.detail.at("bytes").get<double>();
  }
  Json j;
  j["tokens"] = static_cast<int64_t>(tokens);
  j["bytes"] = static_cast<int64_t>(bytes);
  if (tokens > 0) j["perplexity"] = std::exp(nats / tokens);
  if (bytes > 0) j["bits_per_byte"] = nats / std::numbers::ln2 / bytes;
  return j;
}

}  // namespace fathom::eval
