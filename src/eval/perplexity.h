// Perplexity: how well the model predicts texts, in nats per token and bits per byte.
//
// A text is cut into windows of `context` tokens that begin every `stride` tokens. Each token is
// scored once, in the first window that has it. So after the first window every scored token has at
// least context - stride tokens before it. If the tokenizer puts a beginning of sentence in front
// of texts, it is in front of every window and counts among its `context` tokens. Without it the
// first token of a window cannot be scored; windows then overlap by at least one token.
#pragma once

#include "eval/task.h"
#include "text/tokenizer.h"

namespace fathom::eval {

struct PerplexityOptions {
  int64_t context = 4096;
  int64_t stride = 0;   // 0: as many tokens as a window can score, so that windows do not overlap
  int64_t windows = 0;  // of all texts together at most; 0: all
};

struct TextFile {
  std::string path, text;
};

class Perplexity final : public Task {
 public:
  // Throws Error, with the path, for a text that is not UTF-8 or has no token to score. Throws
  // Error for a stride that is below 1 or above the tokens that a window can score.
  Perplexity(std::string name, const Tokenizer& tokenizer, const std::vector<TextFile>& texts,
             const PerplexityOptions& options);

  std::string name() const override { return name_; }
  std::string kind() const override { return "perplexity"; }
  Metric metric() const override { return Metric::nats_per_token; }
  PageKey key() const override;
  size_t size() const override { return windows_.size(); }
  std::string where(size_t item) const override;
  std::vector<Ask> asks(size_t item) const override;
  Record judge(size_t item, std::span<const Outcome> outcomes) const override;
  bool binary() const override { return false; }
  Json extra(std::span<const Record> records) const override;  // bits_per_byte, perplexity, tokens

 private:
  struct Text {
    std::string path;
    std::vector<int32_t> ids;
  };
  struct Window {
    size_t text = 0;
    int64_t begin = 0, end = 0;  // tokens of the text
    int64_t scored = 0;          // how many of these, at the end, are scored
  };
  void cut(size_t text, int64_t room);

  std::string name_;
  const Tokenizer& tokenizer_;
  PerplexityOptions options_;
  std::vector<int32_t> front_;  // tokens in front of every window
  std::vector<Text> texts_;
  std::vector<Window> windows_;
};

}  // namespace fathom::eval
