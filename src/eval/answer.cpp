#include "eval/answer.h"

#include <algorithm>

#include "base/error.h"
#include "eval/prompts.h"
#include "eval/statistics.h"
#include "runtime/sampler.h"

namespace fathom::eval {
namespace {

constexpr std::string_view kPrompt = "{prompt}";

}  // namespace

AnswerTask::AnswerTask(const Tokenizer& tokenizer, Encoding encoding, const ItemFile& file,
                       const ItemSettings& flags, uint64_t seed, int64_t max_context)
    : ItemTask(tokenizer, file, flags) {
  read_settings(seed);
  const Prompts prompts(tokenizer, encoding, chat_, thinking_);
  Question q;
  Steps steps;
  steps.read = [&](const Item& item) {
    q = {};
    return read(item.value, q);
  };
  steps.show = [&] { examples_ += prompt_text(q) + (chat_ ? "\n" : "") + q.expected + "\n\n"; };
  steps.ask = [&] {
    q.ids = prompts.prompt(examples_ + prompt_text(q));
    return static_cast<int64_t>(q.ids.size()) + max_new_tokens_;
  };
  steps.keep = [&] { questions_.push_back(std::move(q)); };
  load(file, max_context, steps);
}

void AnswerTask::read_settings(uint64_t seed) {
  const ItemSettings& s = settings_;
  if (thinking_ && !chat_) fail("{}: reasoning goes with --chat", path_);
  match_ = choice_of(s.match, "match", Match::exact,
                     {{"exact", Match::exact}, {"regex", Match::regex}, {"number", Match::number}});
  if (s.marker && match_ != Match::number)
    fail("{}: a marker stands in front of a number: --match number", path_);
  marker_ = s.marker.value_or("");
  stop_ = s.stop.value_or("");
  template_ = s.template_.value_or(std::string(kPrompt));
  if (template_.find(kPrompt) == template_.npos)
    fail("{}: the template has no {} in it: \"{}\"", path_, kPrompt, template_);
  samples_ = s.samples.value_or(1);
  if (samples_ < 1) fail("{}: {} samples: at least 1 is needed", path_, samples_);
  max_new_tokens_ = std::max(1, s.max_new_tokens.value_or(256));
  // A single answer is the model's best one; several samples have to differ.
  sampling_.temperature = static_cast<float>(s.temperature.value_or(samples_ > 1 ? 0.6 : 0));
  sampling_.top_p = static_cast<float>(s.top_p.value_or(samples_ > 1 ? 0.95 : 1));
  sampling_.seed = seed;
  if (samples_ > 1 && sampling_.temperature == 0)
    fail("{}: {} samples at temperature 0 are the same answer so many times", path_, samples_);
  if (const Result<SamplingParams> p = checked(sampling_); !p.ok())
    fail("{}: {}", path_, p.failure().message);
}

std::optional<std::string> AnswerTask::read(const Json& item, Question& q) const {
  const Json* prompt = first_field(item, fields_.question);
  if (!prompt) return no_field(fields_.question);
  const Json* expected = first_field(item, fields_.answer);
  if (!expected) return no_field(fields_.answer);
  const std::optional<std::string> text = plain_text(*prompt), wanted = plain_text(*expected);
  if (!text) return fmt::format("\"{}\" is no text", fields_.question[0]);
  if (!wanted) return fmt::format("\"{}\" is no text and no number", fields_.answer[0]);
  if (trimmed(*wanted).empty()) return "what is expected is empty";
  q.prompt = *text;
  q.expected = *wanted;
  if (match_ == Match::regex) {
    try {
      q.pattern.emplace(q.expected);
    } catch (const Error& e) {
      return e.what();
    }
  } else if (match_ == Match::number) {
    // GSM8K's answers end in a marker and the number; other answers are the number.
    std::optional<double> number = number_behind(q.expected, marker_);
    if (!number) number = number_behind(q.expected, "");
    if (!number) return fmt::format("what is expected has no number: \"{}\"", q.expected);
    q.number = *number;
  }
  return std::nullopt;
}

std::string AnswerTask::prompt_text(const Question& q) const {
  std::string s = template_;
  s.replace(s.find(kPrompt), kPrompt.size(), q.prompt);
  return s;
}

PageKey AnswerTask::key() const {
  PageKey key = with(PageKey{}, "answer 1");
  key = with(
      key, fmt::format("{} {} {} {} {} {} {}", static_cast<int>(match_), samples_, max_new_tokens_,
                       sampling_.temperature, sampling_.top_p, sampling_.seed, thinking_));
  key = with(with(key, marker_), stop_);
  for (const Question& q : questions_) {
    key = with(key, std::span<const int32_t>(q.ids));
    key = with(key, q.expected);
  }
  return key;
}

std::vector<Ask> AnswerTask::asks(size_t item) const {
  std::vector<Ask> asks(static_cast<size_t>(samples_));
  for (size_t i = 0; i < asks.size(); ++i) {
    asks[i].ids = questions_[item].ids;
    asks[i].max_new_tokens = max_new_tokens_;
    asks[i].sampling = sampling_;
    // The seed depends on the item's line, so that an item is sampled alike whatever other items
    // the file has.
    asks[i].sampling.seed = extended(extended({sampling_.seed, 0}, lines_[item]), i).a;
  }
  return asks;
}

bool AnswerTask::right(const Question& q, std::string_view text, bool& parsed) const {
  parsed = true;
  switch (match_) {
    case Match::exact:
      return trimmed(text) == trimmed(q.expected);
    case Match::regex:
      return q.pattern->found_in(text);
    case Match::number: {
      const std::optional<double> number = number_behind(text, marker_);
      parsed = number.has_value();
      return number == q.number;
    }
  }
  return false;
}

Record AnswerTask::judge(size_t item, std::span<const Outcome> outcomes) const {
  const Question& q = questions_[item];
  int correct = 0, unparsed = 0, cut_off = 0;
  Json texts = Json::array();
  for (const Outcome& outcome : outcomes) {
    std::string text = text_of_answer(outcome);
    if (const size_t end = stop_.empty() ? text.npos : text.find(stop_); end != text.npos)
      text.erase(end);
    else
      cut_off += !outcome.ended;
    bool parsed = true;
    correct += right(q, text, parsed);
    unparsed += !parsed;
    texts.push_back(std::move(text));
  }
  Record r;
  r.value = static_cast<double>(correct) / static_cast<double>(outcomes.size());
  r.detail = {{"correct", correct},
              {"unparsed", unparsed},
              {"cut_off", cut_off},
              {"expected", q.expected},
              {"answers", std::move(texts)}};
  return r;
}

Json AnswerTask::extra(std::span<const Record> records) const {
  Json j = Json::object();
  int64_t unparsed = 0, cut_off = 0;
  for (const Record& r : records) {
    unparsed += r.detail.at("unparsed").get<int64_t>();
    cut_off += r.detail.at("cut_off").get<int64_t>();
  }
  if (match_ == Match::number) j["unparsed"] = unparsed;
  j["cut_off"] = cut_off;
  for (int64_t k = 2; k <= samples_ && !records.empty(); k *= 2) {
    double sum = 0;
    for (const Record& r : records)
      sum += pass_at_k(samples_, r.detail.at("correct").get<int64_t>(), k);
    j[fmt::format("pass_at_{}", k)] = sum / static_cast<double>(records.size());
  }
  return j;
}

}  // namespace fathom::eval
