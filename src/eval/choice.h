// Questions with choices: which one the model finds most probable, or names.
//
//   style text     the question as it is, and each choice as its continuation
//   style letters  "Question: ...", the choices after A., B., ..., and "Answer:"; the letter is
//                  the continuation
//   score logprob     sum of the continuation's log-probabilities
//         normalised  the same over the continuation's bytes
//         generate    the letter that the model's own answer names
#pragma once

#include "eval/item_task.h"
#include "eval/prompts.h"

namespace fathom::eval {

class Choice final : public ItemTask {
 public:
  // `flags`: settings that override those of the file. Items are skipped, with the reason, if they
  // lack a field, if their answer is none of the choices, or if they are longer than `max_context`.
  // Throws Error for contradictory settings and for a file without a usable item.
  Choice(const Tokenizer& tokenizer, Encoding encoding, const ItemFile& file,
         const ItemSettings& flags, uint64_t seed, int64_t max_context);

  std::string kind() const override { return "choice"; }
  Metric metric() const override { return Metric::accuracy; }
  PageKey key() const override;
  size_t size() const override { return questions_.size(); }
  std::vector<Ask> asks(size_t item) const override;
  Record judge(size_t item, std::span<const Outcome> outcomes) const override;
  bool binary() const override { return true; }
  Json extra(std::span<const Record> records) const override;  // accuracy_normalised, unparsed

 private:
  enum class Score { logprob, normalised, generate };
  struct Question {
    std::string text;
    std::vector<std::string> choices;
    std::vector<std::string> labels;  // one per choice if the file names them, else empty
    size_t answer = 0;
  };
  void read_settings();
  std::optional<std::string> read(const Item& item, Question& q) const;
  std::optional<std::string> read_choices(const Json& item, Question& q) const;
  static std::optional<std::string> read_answer(const Json& value, Question& q);
  void shuffle(Question& q, size_t line) const;
  std::string question_text(const Question& q) const;
  std::string continuation(const Question& q, size_t choice) const;
  std::vector<Ask> asks_of(const Question& q, const Prompts& prompts) const;
  Record judge_generated(const Question& q, const Outcome& outcome) const;

  bool letters_ = true;
  Score score_ = Score::logprob;
  int max_new_tokens_ = 16;
  uint64_t seed_ = 1;
  std::vector<Question> questions_;
  std::vector<std::vector<Ask>> asks_;
};

// Returns the index of the letter that an answer names: after the last "answer is" or "Answer:",
// else the first letter that stands alone. -1 if it is none of the `choices`.
int letter_of(std::string_view answer, size_t choices);

}  // namespace fathom::eval
