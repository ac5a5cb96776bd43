// A loaded checkpoint with its tokenizer and an engine: what `generate` and `chat` are built on.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>

#include "cli/answer.h"
#include "cli/options.h"
#include "model/checkpoint.h"
#include "runtime/engine.h"

namespace fathom::cli {

// What can be said on the command line about how to compute and how to draw tokens.
struct GenerationOptions {
  std::string config, encoding, system;
  ComputeOptions compute;
  int64_t max_new_tokens = 200, max_context = 0;
  int64_t index_budget_mib = 0;  // 0: what suits the device
  int chunk = 0;                 // 0: what suits the device
  // DeepSeek's own defaults for its generate.py; generation_config.json is not asked, so that the
  // same command does the same everywhere.
  float temperature = 0.6f, top_p = 1.0f, min_p = 0.0f;
  int top_k = 0;
  std::optional<uint64_t> seed;
  bool thinking = false;

  void add_to(CLI::App& command);
};

class ModelSession {
 public:
  // Loads and says on standard error what was chosen. Throws Error when something is missing.
  ModelSession(const std::string& folder, const GenerationOptions& options, int max_seqs,
               int keep_prefixes);

  Engine& engine() { return *engine_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  Encoding encoding() const { return encoding_; }

  // Token ids of a prompt. Throws Error for text that is not UTF-8, or a conversation that the
  // encoding cannot express.
  std::vector<int32_t> prompt_ids(const Conversation& conversation, bool thinking) const;
  std::vector<int32_t> raw_ids(const std::string& text) const;

  // Hands a prompt to the engine; its events go to `answer`, which must live until it has ended.
  Result<RequestId> submit(std::vector<int32_t> ids, Answer& answer);
  Answer new_answer(bool thinking, bool raw, Answer::Show show = {}) const;

  // Since the start: steps of the engine, not the time someone spent at the keyboard.
  Speed speed() const;

 private:
  GenerationOptions options_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<DeviceWeights> weights_;
  Tokenizer tokenizer_;
  Encoding encoding_;
  std::vector<int32_t> stop_ids_;
  std::unique_ptr<Engine> engine_;
};

// A conversation of one user message, after `system` unless that is empty.
Conversation conversation_of_prompt(const std::string& system, const std::string& prompt);

}  // namespace fathom::cli
