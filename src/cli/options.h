// Options that several subcommands share, and their checks.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/compute_plan.h"
#include "text/tokenizer.h"

namespace fathom::cli {

// The user's options for a ComputePlan. This is the only place where options become one.
struct ComputeOptions {
  std::string device = "auto", numerics, kv, attention = "sparse", kernels;
  int threads = 0;
  bool batch_invariant = false;
  // 0: the default of plan().
  int64_t context = 0, index_budget_mib = 0;
  int step_tokens = 0, sequences = 0;
  std::optional<int> speculative_tokens;  // none: the program decides
  bool speculate_always = false;
  int tensor_parallel = 0, data_parallel = 0;
  double exchange_timeout = 6;
  std::string exchange = "auto";

  // --device, --numerics, --kv, --attention, --kernels, --threads, --batch-invariant
  void add_to(CLI::App& command);
  // --tensor-parallel-size, --exchange-timeout
  void add_ranks_to(CLI::App& command);
  // --data-parallel-size, for a command with an engine
  void add_groups_to(CLI::App& command);
  // --device alone, for a command that chooses the rest itself.
  void add_device_to(CLI::App& command);
  // Sizes, also under their former names and under vLLM's names.
  void add_step_tokens_to(CLI::App& command);
  void add_context_to(CLI::App& command);
  void add_sequences_to(CLI::App& command);
  void add_index_budget_to(CLI::App& command);
  // --speculative-tokens, --speculative-always, and vLLM's --speculative-config
  void add_speculation_to(CLI::App& command);

  // Every choice settled but what depends on the model and its memory: a context of 0 stays 0.
  // Looks for a GPU at the first call, and says on standard error when one is there unused. With
  // the folder of a checkpoint that was converted for several ranks as many GPUs are taken where no
  // layout is asked for.
  ComputePlan plan(const std::string& folder = {}) const;

 private:
  DeviceKind device_value() const;
  int ranks_of(const std::string& folder) const;

  mutable std::optional<DeviceKind> found_;
  mutable std::optional<int> ranks_;  // of the folder
};

// A check that a value is a number from `low` to `high`. CLI::Range lets NaN through: it is neither
// below nor above anything.
CLI::Validator number_from(double low, double high);

// Reads whitespace-separated token ids. Throws Error that shows what is not a number.
std::vector<int32_t> parse_ids(const std::string& text, const std::string& origin);

// The help text of --threads.
inline constexpr const char* kThreadsHelp =
    "threads, 0 for one a physical core, within the affinity mask and a container's quota";

// Prints on standard error why there are fewer threads than the machine has processors, unless a
// number of threads was asked for.
void say_threads(int asked);

// Returns the threads that compute: those asked for, but no more than can run at once, since a loop
// ends with its last thread and more would wait for one another; 0: one a physical core.
int computing_threads(int asked);

// As say_threads(); also says if computing_threads() are fewer than asked for.
void say_computing_threads(int asked);

// Returns the ids of a text as Tokenizer::encode() gives them. Prints a note on standard error if
// the text already begins with the tokenizer's beginning of sentence, which is then not added
// again.
std::vector<int32_t> encode_text(const Tokenizer& tokenizer, const std::string& text);

// Throws Error naming the first id outside the vocabulary.
void check_ids(std::span<const int32_t> ids, int vocab);

}  // namespace fathom::cli
