// Prompts and answers of a loaded model on the command line: what `generate` and `chat` share.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>

#include "cli/answer.h"
#include "cli/loaded_model.h"

namespace fathom::cli {

// Command line options for computing and sampling.
struct GenerationOptions {
  std::string system;
  ModelOptions model;
  int64_t max_new_tokens = 200;
  // DeepSeek's own defaults for its generate.py; generation_config.json is not read, so that a
  // command does the same with every checkpoint.
  float temperature = 0.6f, top_p = 1.0f, min_p = 0.0f;
  int top_k = 0;
  std::optional<uint64_t> seed;
  bool thinking = false;

  void add_to(CLI::App& command);
};

class ModelSession {
 public:
  // Loads, and prints on standard error what was chosen. Throws Error when something is missing.
  ModelSession(const std::string& folder, const GenerationOptions& options, int sequences,
               bool keep_prefixes);

  ModelEngine& engine() { return model_.engine(); }
  const Tokenizer& tokenizer() const { return model_.tokenizer(); }
  Encoding encoding() const { return model_.encoding(); }

  // Token ids of a prompt. Throws Error for text that is not UTF-8, or a conversation that the
  // encoding cannot express.
  std::vector<int32_t> prompt_ids(const Conversation& conversation, bool thinking) const;
  std::vector<int32_t> raw_ids(const std::string& text) const;

  // Submits a prompt to the engine. Its events go to `answer`, which must live until it has ended.
  Result<RequestId> submit(std::vector<int32_t> ids, Answer& answer);
  Answer new_answer(bool thinking, bool raw, Answer::Show show = {}) const;

  // Totals since the start. The times are those of the engine's steps, without waiting for input.
  Speed speed() const;

 private:
  GenerationOptions options_;
  LoadedModel model_;
};

// A conversation of one user message, after `system` unless that is empty.
Conversation conversation_of_prompt(const std::string& system, const std::string& prompt);

}  // namespace fathom::cli
