// Answer: reads the token events of one request into text and a message, and keeps the request's
// figures.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "runtime/request.h"
#include "runtime/speculation.h"
#include "text/answer_reader.h"

namespace fathom::cli {

class Answer {
 public:
  // Called as whole characters arrive. `text` is what the model has written, without special
  // tokens; the events say what it is (for raw answers always content).
  using Show = std::function<void(const std::string& text, const CompletionParser::Events&)>;

  // Raw answers continue a text: they are not parsed.
  Answer(const Tokenizer& tokenizer, Encoding encoding, bool thinking, bool raw, Show show = {});

  void take(const TokenEvent& event);

  bool ended() const { return finish_ != Finish::none; }
  bool failed() const { return finish_ == Finish::error; }
  Finish finish() const { return finish_; }
  const std::string& error() const { return error_; }
  const std::string& text() const { return text_; }
  const RequestStats& stats() const { return stats_; }
  const std::vector<int32_t>& ids() const { return ids_; }
  const Message& message() const { return reader_.message(); }

  // "stop", "length", "tool_calls", "cancelled"
  std::string finish_reason() const;
  nlohmann::ordered_json to_json() const;

 private:
  void show(const std::string& visible, const CompletionParser::Events& pieces);

  const bool raw_;
  Show show_;
  StreamDecoder visible_;
  AnswerReader reader_;
  std::string text_, error_;
  std::vector<int32_t> ids_;
  Finish finish_ = Finish::none;
  RequestStats stats_;
};

// Tokens and seconds of several answers, for the line at the end.
struct Speed {
  int64_t prompt_tokens = 0, generated_tokens = 0;
  SpeculationStats speculation;
  double prompt_seconds = 0, generation_seconds = 0;
  double prompt_rate() const {
    return prompt_seconds > 0 ? static_cast<double>(prompt_tokens) / prompt_seconds : 0;
  }
  double generation_rate() const {
    return generation_seconds > 0 ? static_cast<double>(generated_tokens) / generation_seconds : 0;
  }
  // "prompt: 120 tokens, 2345.6 tokens/s; generation: 40 tokens, 567.8 tokens/s", and if there were
  // drafts "; drafts: 18 of 24 accepted, 1.75 tokens a step with drafts"
  std::string text() const;
};

}  // namespace fathom::cli
