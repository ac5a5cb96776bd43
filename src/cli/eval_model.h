// Variants (ways to compute) that an evaluation compares, and the models they need.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cache/page_key.h"
#include "cli/loaded_model.h"

namespace fathom::cli {

// One way to compute.
struct Variant {
  std::string name;  // what distinguishes it from the others: "dense", "fp8", a folder
  std::string folder;
  ModelOptions model;
};

// Options that make the variants: lists of values. At most one list may have several values.
struct VariantOptions {
  std::vector<std::string> folders, attention = {"sparse"}, numerics, kv, device = {"auto"};
  std::vector<std::string> kernels;
  std::string config, encoding;
  ComputeOptions common;  // the same in all variants: threads, sizes

  void add_to(CLI::App& command);
  // Throws UsageError when two lists have several values.
  std::vector<Variant> variants() const;
  bool several_besides_attention() const;
};

// A loaded checkpoint. Engines are made for one variant after the other, so that only one cache
// exists at a time.
class EvalModel {
 public:
  explicit EvalModel(const Variant& variant);

  const Config& config() const { return checkpoint_->config(); }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  Encoding encoding() const { return encoding_; }
  const std::vector<int32_t>& stop_ids() const { return stop_ids_; }

  // Chooses the options of the next engine. `engine` has those that the variant does not set, such
  // as max_context. Returns a key of everything that the results depend on: checkpoint, numerics,
  // kernels.
  PageKey prepare(const Variant& variant, EngineOptions engine);
  // Makes the prepared engine. The one before is destroyed first, to free its memory.
  Engine& start();
  void stop() { engine_.reset(); }
  const EngineOptions& options() const { return options_; }

 private:
  std::unique_ptr<Checkpoint> checkpoint_;
  Tokenizer tokenizer_;
  Encoding encoding_;
  std::vector<int32_t> stop_ids_;
  PageKey digest_;
  EngineOptions options_;
  std::unique_ptr<DeviceWeights> weights_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace fathom::cli
