// Needles: a fact planted in a long text, asked for at its end. Lengths by depths; whether the
// answer has the fact, and how much of the fact the indexer picked while it was written.
#pragma once

#include "eval/prompts.h"
#include "eval/task.h"

namespace fathom::eval {

struct NeedleOptions {
  std::vector<int64_t> lengths;                          // tokens of the prompt
  std::vector<double> depths = {0, 0.25, 0.5, 0.75, 1};  // 0: the fact stands first
  int count = 4;                                         // facts of a cell
  int max_new_tokens = 24;
  uint64_t seed = 1;
  std::string text;  // to plant in; empty: generated sentences
};

class Needles final : public Task {
 public:
  // Throws Error for a length that leaves no room for the question, or is not below `max_context`,
  // and for a text too short for the longest length.
  Needles(std::string name, const Tokenizer& tokenizer, Encoding encoding,
          const NeedleOptions& options, int64_t max_context);

  std::string name() const override { return name_; }
  std::string kind() const override { return "needles"; }
  Metric metric() const override { return Metric::recall; }
  PageKey key() const override;
  size_t size() const override { return needles_.size(); }
  std::string where(size_t item) const override;
  std::vector<Ask> asks(size_t item) const override;
  Record judge(size_t item, std::span<const Outcome> outcomes) const override;
  bool binary() const override { return true; }
  // cells: recall by length and depth; picked_by_layer: mean share of the fact's tokens among those
  // picked, where selections were watched.
  Json extra(std::span<const Record> records) const override;

 private:
  struct Needle {
    int64_t length = 0;
    double depth = 0;
    int number = 0;      // of the cell's
    std::string answer;  // the digits that must come back
    Ask ask;
  };
  class Hay;
  Needle plant(const Prompts& prompts, Hay& hay, int64_t length, double depth, int number) const;

  std::string name_;
  const Tokenizer& tokenizer_;
  NeedleOptions options_;
  std::vector<Needle> needles_;
};

// A heat map of the cells of one variant's `extra`, and a bar a layer where picks were watched.
std::string needles_svg(const std::vector<std::pair<std::string, Json>>& variants);

// The cells as a table: a row a depth, a column a length.
std::string needles_text(const Json& extra);

}  // namespace fathom::eval
