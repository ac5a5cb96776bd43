#include "eval/choice.h"

#include <algorithm>
#include <cctype>
#include <cmath>

#include "base/error.h"
#include "eval/filler.h"

namespace fathom::eval {
namespace {

constexpr size_t kMostChoices = 26;

char letter(size_t i) { return static_cast<char>('A' + i); }

bool word(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; }

// A text, or each text of a list. False where something is no text.
bool add_texts(const Json& value, std::vector<std::string>& to) {
  const bool list = value.is_array();
  for (size_t i = 0; i < (list ? value.size() : 1); ++i) {
    std::optional<std::string> text = plain_text(list ? value[i] : value);
    if (!text) return false;
    to.push_back(*std::move(text));
  }
  return true;
}

std::string_view without_blanks_behind(std::string_view text) {
  const size_t end = text.find_last_not_of(" \t\r\n");
  return text.substr(0, end == text.npos ? 0 : end + 1);
}

}  // namespace

Choice::Choice(const Tokenizer& tokenizer, Encoding encoding, const ItemFile& file,
               const ItemSettings& flags, uint64_t seed, int64_t max_context)
    : ItemTask(tokenizer, file, flags), seed_(seed) {
  read_settings();
  const Prompts prompts(tokenizer, encoding, chat_, thinking_);
  Question q;
  std::vector<Ask> asks;
  Steps steps;
  steps.read = [&](const Item& item) {
    q = {};
    return read(item, q);
  };
  steps.show = [&] { examples_ += question_text(q) + continuation(q, q.answer) + "\n\n"; };
  steps.ask = [&] {
    asks = asks_of(q, prompts);
    int64_t most = 0;
    for (const Ask& a : asks)
      most = std::max(most, static_cast<int64_t>(a.ids.size()) + a.max_new_tokens);
    return most;
  };
  steps.keep = [&] {
    questions_.push_back(std::move(q));
    asks_.push_back(std::move(asks));
  };
  load(file, max_context, steps);
}

void Choice::read_settings() {
  letters_ = choice_of(settings_.style, "style", true, {{"letters", true}, {"text", false}});
  score_ = choice_of(settings_.score, "score", Score::logprob,
                     {{"logprob", Score::logprob},
                      {"normalised", Score::normalised},
                      {"generate", Score::generate}});
  max_new_tokens_ = settings_.max_new_tokens.value_or(thinking_ ? 4096 : 16);
  if (score_ == Score::generate && !letters_)
    fail("{}: answers that are generated name a letter: --style text has none", path_);
  if (thinking_ && (score_ != Score::generate || !chat_))
    fail("{}: reasoning goes with --chat and --score generate", path_);
}

std::vector<Ask> Choice::asks_of(const Question& q, const Prompts& prompts) const {
  const std::string text = examples_ + question_text(q);
  std::vector<Ask> asks;
  if (score_ == Score::generate) {
    Ask& ask = asks.emplace_back();
    ask.ids = prompts.prompt(text);
    ask.max_new_tokens = max_new_tokens_;
    return asks;
  }
  for (size_t i = 0; i < q.choices.size(); ++i) {
    Prompts::Continued c = prompts.continued(text, continuation(q, i));
    Ask& ask = asks.emplace_back();
    ask.ids = std::move(c.ids);
    ask.score_from = c.from;
  }
  return asks;
}

std::optional<std::string> Choice::read(const Item& item, Question& q) const {
  const Json* question = first_field(item.value, fields_.question);
  if (!question) return no_field(fields_.question);
  const std::optional<std::string> text = plain_text(*question);
  if (!text) return fmt::format("\"{}\" is no text", fields_.question[0]);
  q.text = *text;
  if (std::optional<std::string> wrong = read_choices(item.value, q)) return wrong;
  const Json* answer = first_field(item.value, fields_.answer);
  if (!answer) return no_field(fields_.answer);
  if (std::optional<std::string> wrong = read_answer(*answer, q)) return wrong;
  if (settings_.shuffle.value_or(false)) shuffle(q, item.line);
  return std::nullopt;
}

std::optional<std::string> Choice::read_choices(const Json& item, Question& q) const {
  for (const std::string& name : fields_.choices) {
    const Json* value = field_of(item, name);
    if (!value) return no_field({name});
    const Json* labels = nullptr;
    // "choices": {"text": [...], "label": [...]}, as ARC and others have it.
    if (value->is_object() && value->contains("text")) {
      if (value->contains("label")) labels = &(*value)["label"];
      value = &(*value)["text"];
    }
    if (!add_texts(*value, q.choices))
      return fmt::format("\"{}\" has a choice that is no text", name);
    if (labels && !add_texts(*labels, q.labels))
      return fmt::format("\"{}\" has a label that is no text", name);
  }
  if (!q.labels.empty() && q.labels.size() != q.choices.size())
    return fmt::format("{} labels of {} choices", q.labels.size(), q.choices.size());
  if (q.choices.size() < 2 || q.choices.size() > kMostChoices)
    return fmt::format("{} choices: 2 to {} are expected", q.choices.size(), kMostChoices);
  std::vector<std::string> sorted = q.choices;
  std::sort(sorted.begin(), sorted.end());
  if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end())
    return "two choices are the same";
  // Nothing of it could be scored, and the log-probability of nothing is the best there is.
  if (without_blanks_behind(sorted.front()).empty()) return "a choice is empty";
  return std::nullopt;
}

// A choice's label, text or letter, or its index from 0.
std::optional<std::string> Choice::read_answer(const Json& value, Question& q) {
  const size_t n = q.choices.size();
  if (value.is_number()) {
    const double index = value.get<double>();
    if (index != std::floor(index) || index < 0 || index >= static_cast<double>(n))
      return fmt::format("the answer is {}: the choices are 0 to {}", value.dump(), n - 1);
    q.answer = static_cast<size_t>(index);
    return std::nullopt;
  }
  if (!value.is_string()) return "the answer is no text and no index";
  const std::string text = value.get<std::string>();
  if (const auto label = std::find(q.labels.begin(), q.labels.end(), text);
      label != q.labels.end()) {
    q.answer = static_cast<size_t>(label - q.labels.begin());
    return std::nullopt;
  }
  const auto same = std::find(q.choices.begin(), q.choices.end(), text);
  if (same != q.choices.end()) {
    q.answer = static_cast<size_t>(same - q.choices.begin());
    return std::nullopt;
  }
  if (text.size() == 1 && text[0] >= 'A' && text[0] < letter(n)) {
    q.answer = static_cast<size_t>(text[0] - 'A');
    return std::nullopt;
  }
  return fmt::format("the answer \"{}\" is none of the {} choices, and no letter up to {}", text, n,
                     letter(n - 1));
}

void Choice::shuffle(Question& q, size_t line) const {
  const std::string right = q.choices[q.answer];
  Numbers numbers(extended({seed_, 0}, line).a);
  for (size_t i = q.choices.size() - 1; i > 0; --i)
    std::swap(q.choices[i], q.choices[numbers.below(i + 1)]);
  q.answer =
      static_cast<size_t>(std::find(q.choices.begin(), q.choices.end(), right) - q.choices.begin());
}

std::string Choice::question_text(const Question& q) const {
  // Tokens begin with a blank rather than end with one. So a blank at the end of the prompt is
  // moved to the continuation.
  if (!letters_) return std::string(without_blanks_behind(q.text));
  std::string s = "Question: " + q.text + "\n";
  for (size_t i = 0; i < q.choices.size(); ++i)
    s += fmt::format("{}. {}\n", letter(i), q.choices[i]);
  return s + "Answer:";
}

std::string Choice::continuation(const Question& q, size_t choice) const {
  if (letters_) return chat_ ? std::string(1, letter(choice)) : fmt::format(" {}", letter(choice));
  const std::string& text = q.choices[choice];
  if (chat_) return text;
  std::string blanks = q.text.substr(without_blanks_behind(q.text).size());
  if (blanks.empty() && !text.empty() && !std::isspace(static_cast<unsigned char>(text[0])))
    blanks = " ";
  return blanks + text;
}

PageKey Choice::key() const {
  PageKey key = with(PageKey{}, "choice 1");
  key = extended(key, static_cast<uint64_t>(score_));
  for (size_t i = 0; i < questions_.size(); ++i) {
    key = extended(key, questions_[i].answer);
    for (const Ask& ask : asks_[i]) {
      key = with(key, std::span<const int32_t>(ask.ids));
      key = extended(key, static_cast<uint64_t>(ask.score_from));
      key = extended(key, static_cast<uint64_t>(ask.max_new_tokens));
    }
  }
  return key;
}

std::vector<Ask> Choice::asks(size_t item) const { return asks_[item]; }

Record Choice::judge(size_t item, std::span<const Outcome> outcomes) const {
  const Question& q = questions_[item];
  if (score_ == Score::generate) return judge_generated(q, outcomes[0]);
  std::vector<double> sums, per_byte;
  for (size_t i = 0; i < outcomes.size(); ++i) {
    double sum = 0;
    for (float p : outcomes[i].logprobs) sum += static_cast<double>(p);
    sums.push_back(sum);
    per_byte.push_back(sum / static_cast<double>(std::max<size_t>(1, continuation(q, i).size())));
  }
  // Of equal values the first one counts.
  auto best = [](const std::vector<double>& v) {
    return static_cast<size_t>(std::max_element(v.begin(), v.end()) - v.begin());
  };
  const size_t plain = best(sums), normalised = best(per_byte);
  Record r;
  r.value = (score_ == Score::normalised ? normalised : plain) == q.answer;
  r.detail = {{"answer", q.answer},
              {"chosen", plain},
              {"chosen_normalised", normalised},
              {"logprobs", sums}};
  return r;
}

Record Choice::judge_generated(const Question& q, const Outcome& outcome) const {
  const std::string text = text_of_answer(outcome);
  const int chosen = letter_of(text, q.choices.size());
  Record r;
  r.value = chosen == static_cast<int>(q.answer);
  r.detail = {{"answer", q.answer}, {"chosen", chosen}, {"text", text}};
  return r;
}

Json Choice::extra(std::span<const Record> records) const {
  Json j = Json::object();
  if (records.empty()) return j;
  double plain = 0, normalised = 0, unparsed = 0;
  for (const Record& r : records) {
    const Json& d = r.detail;
    if (score_ == Score::generate) {
      unparsed += d.at("chosen").get<int>() < 0;
      continue;
    }
    plain += d.at("chosen") == d.at("answer");
    normalised += d.at("chosen_normalised") == d.at("answer");
  }
  const auto n = static_cast<double>(records.size());
  if (score_ == Score::generate) {
    j["unparsed"] = unparsed;
  } else {
    j["accuracy_logprob"] = plain / n;
    j["accuracy_normalised"] = normalised / n;
  }
  return j;
}

int letter_of(std::string_view answer, size_t choices) {
  auto letter_at = [&](size_t i) {
    const bool alone = i < answer.size() && answer[i] >= 'A' && answer[i] < letter(choices) &&
                       (i == 0 || !word(answer[i - 1])) &&
                       (i + 1 == answer.size() || !word(answer[i + 1]));
    return alone ? answer[i] - 'A' : -1;
  };
  std::string lower(answer);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  for (size_t at = lower.rfind("answer"); at != lower.npos;
       at = at == 0 ? lower.npos : lower.rfind("answer", at - 1)) {
    size_t i = at + 6;
    auto skip = [&](std::string_view text) {
      if (std::string_view(lower).substr(i).starts_with(text)) i += text.size();
    };
    auto skip_all = [&](std::string_view set) {
      while (i < lower.size() && set.find(lower[i]) != set.npos) ++i;
    };
    skip_all(" *");
    skip("is");
    skip_all(" :*(\n\"");
    if (const int found = letter_at(i); found >= 0) return found;
  }
  for (size_t i = 0; i < answer.size(); ++i)
    if (const int found = letter_at(i); found >= 0) return found;
  return -1;
}

}  // namespace fathom::eval
