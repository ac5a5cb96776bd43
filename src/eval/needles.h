// Needles: facts hidden in long texts, which the question at the end asks for. The grid has lengths
// and depths. An item is right if the answer has the fact; also measured is how much of the fact
// the indexer picked while the answer was written.
#pragma once

#include "eval/prompts.h"
#include "eval/task.h"

namespace fathom::eval {

struct NeedleOptions {
  std::vector<int64_t> lengths;                          // tokens of the prompt
  std::vector<double> depths = {0, 0.25, 0.5, 0.75, 1};  // 0: the fact comes first
  int count = 4;                                         // facts per cell (length and depth)
  int max_new_tokens = 24;
  uint64_t seed = 1;
  std::string text;  // text to hide facts in; empty: generated sentences
};

class Needles final : public Task {
 public:
  // Throws Error for a length that leaves no room for the question or is not below `max_context`,
  // and for a text that is too short for the longest length.
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
  // cells: recall by length and depth; picked_by_layer: mean share of the fact's tokens that were
  // picked, if selections were watched.
  Json extra(std::span<const Record> records) const override;

 private:
  struct Needle {
    int64_t length = 0;
    double depth = 0;
    int number = 0;      // index in the cell
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

// Draws a heat map of the cells of each variant's `extra`, and one bar per layer if picks were
// watched.
std::string needles_svg(const std::vector<std::pair<std::string, Json>>& variants);

// Returns the cells as a table: one row per depth, one column per length.
std::string needles_text(const Json& extra);

}  // namespace fathom::eval
