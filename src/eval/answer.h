// Prompts whose answers the model writes, judged against what is expected.
//
//   match exact   the answer's text, white space at both ends aside
//         regex   a regular expression that the answer contains
//         number  the number after a marker
//
// With several `samples`, each answer to an item is drawn with its own seed. The item's value is
// the share of right answers, and pass@k is estimated from them.
#pragma once

#include "eval/answer_match.h"
#include "eval/item_task.h"
#include "text/chat.h"

namespace fathom::eval {

class AnswerTask final : public ItemTask {
 public:
  // Parameters as for Choice.
  AnswerTask(const Tokenizer& tokenizer, Encoding encoding, const ItemFile& file,
             const ItemSettings& flags, uint64_t seed, int64_t max_context);

  std::string kind() const override { return "answer"; }
  Metric metric() const override { return Metric::accuracy; }
  PageKey key() const override;
  size_t size() const override { return questions_.size(); }
  std::vector<Ask> asks(size_t item) const override;
  Record judge(size_t item, std::span<const Outcome> outcomes) const override;
  bool binary() const override { return samples_ == 1; }
  Json extra(std::span<const Record> records) const override;  // pass_at_k, unparsed, cut_off

 private:
  enum class Match { exact, regex, number };
  struct Question {
    std::string prompt, expected;
    std::optional<Pattern> pattern;
    double number = 0;
    std::vector<int32_t> ids;
  };
  void read_settings(uint64_t seed);
  std::optional<std::string> read(const Json& item, Question& q) const;
  std::string prompt_text(const Question& q) const;
  bool right(const Question& q, std::string_view text, bool& parsed) const;

  Match match_ = Match::exact;
  std::string marker_, stop_, template_;
  int samples_ = 1, max_new_tokens_ = 256;
  SamplingParams sampling_;
  std::vector<Question> questions_;
};

}  // namespace fathom::eval
