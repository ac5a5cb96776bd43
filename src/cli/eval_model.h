// Ways to compute that an evaluation sets side by side, and the models they need.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cache/page_key.h"
#include "cli/loaded_model.h"

namespace fathom::cli {

// One way to compute.
struct Variant {
  std::string name;  // what tells it from the others: "dense", "fp8", a folder
  std::string folder;
  ModelOptions model;
};

// What can be said on the command line of the variants: lists of values, of which one list at most
// may have more than one.
struct VariantOptions {
  std::vector<std::string> folders, attention = {"sparse"}, numerics, kv, device = {"auto"};
  std::vector<std::string> kernels;
  std::string config, encoding;
  ComputeOptions common;  // what is the same in all: threads, sizes

  void add_to(CLI::App& command);
  // Throws UsageError when two lists have several values.
  std::vector<Variant> variants() const;
  bool several_besides_attention() const;
};

// A checkpoint folder without an engine. An engine is made for one variant after the other, so that
// only one has its cache.
class EvalModel {
 public:
  explicit EvalModel(const Variant& variant);

  const Config& config() const { return checkpoint_->config(); }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  Encoding encoding() const { return encoding_; }
  const std::vector<int32_t>& stop_ids() const { return stop_ids_; }

  // Settles what the next engine will be; `engine`: what the variant does not say, such as
  // max_context. Returns the key of what its results depend on: checkpoint, numerics, kernels.
  PageKey prepare(const Variant& variant, EngineOptions engine);
  // The engine that was prepared. Ends the one of before: its memory is the next one's.
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
