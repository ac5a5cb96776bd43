// LoadedModel: a checkpoint folder with its weights, tokenizer, encoding and an engine. `generate`,
// `chat` and `serve` use it.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cli/options.h"
#include "model/checkpoint.h"
#include "numerics/sampling.h"
#include "runtime/device.h"
#include "runtime/grouped_engine.h"
#include "text/chat.h"
#include "text/tokenizer.h"

namespace fathom::cli {

// Command line options for loading and computing.
struct ModelOptions {
  std::string config, encoding;
  std::string load_format = "auto";
  ComputeOptions compute;

  void add_to(CLI::App& command);
  void add_load_format_to(CLI::App& command);
  // Random weights in place of the folder's (vLLM's name for them).
  bool dummy_weights() const { return load_format == "dummy"; }
};

class LoadedModel {
 public:
  // Loads, and prints on standard error what was chosen. `engine` has the options that ModelOptions
  // lacks, such as keep_prefixes. Throws Error when something is missing or does not fit.
  LoadedModel(const std::string& folder, const ModelOptions& options, EngineOptions engine);

  ModelEngine& engine() { return *engine_; }
  const ModelEngine& engine() const { return *engine_; }
  const Config& config() const { return config_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  Encoding encoding() const { return encoding_; }
  // The config's end of sentence and those of generation_config.json.
  const std::vector<int32_t>& stop_ids() const { return stop_ids_; }
  const EngineOptions& engine_options() const { return engine_options_; }

 private:
  std::unique_ptr<Checkpoint> checkpoint_;  // none with random weights
  Config config_;
  std::unique_ptr<DeviceWeights> weights_;
  Tokenizer tokenizer_;
  Encoding encoding_;
  std::vector<int32_t> stop_ids_;
  EngineOptions engine_options_;
  std::unique_ptr<ModelEngine> engine_;
};

// The config's end of sentence and those of the folder's generation_config.json.
std::vector<int32_t> stop_ids_of(const std::string& folder, const Config& config);

// Returns `engine` with the values of the options and the folder filled in.
EngineOptions engine_options_of(const ModelOptions& options, const Checkpoint& checkpoint,
                                EngineOptions engine);

// Returns the sampling parameters of the folder's generation_config.json. Those that it does not
// give are temperature 1 and no filters.
SamplingParams sampling_of_folder(const std::string& folder);

}  // namespace fathom::cli
