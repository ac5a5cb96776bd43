// Options that several subcommands share, and their checks.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/evaluator.h"
#include "text/tokenizer.h"

namespace fathom::cli {

// How to compute: --device, --numerics, --kv, --attention, --kernels, --threads, --batch-invariant.
struct ComputeOptions {
  std::string device = "auto", numerics, kv, attention = "sparse", kernels;
  int threads = 0;
  bool batch_invariant = false;

  void add_to(CLI::App& command);
  // Looks for a GPU at the first call, and says on standard error when one is there unused.
  DeviceKind device_value() const;
  Numerics numerics_value() const;  // default: fp8 on a GPU, bf16 on a CPU
  std::optional<KvFormat> kv_value() const;
  AttentionMode attention_value() const;
  EvalOptions eval_options() const;

 private:
  mutable std::optional<DeviceKind> found_;
};

// Whitespace-separated token ids. Throws Error with what is not a number.
std::vector<int32_t> parse_ids(const std::string& text, const std::string& origin);

// What --threads says where it is not given.
inline constexpr const char* kThreadsHelp =
    "threads, 0 for one a physical core, within the affinity mask and a container's quota";

// Says on standard error why there are fewer threads than the machine has processors, unless a
// number of them was asked for.
void say_threads(int asked);

// The ids of a text as Tokenizer::encode() gives them. Says on standard error when the text brings
// the markers that a beginning of sentence would be put in front of.
std::vector<int32_t> encode_text(const Tokenizer& tokenizer, const std::string& text);

// Throws Error naming the first id outside the vocabulary.
void check_ids(std::span<const int32_t> ids, int vocab);

}  // namespace fathom::cli
