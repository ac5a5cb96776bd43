// Makes the tasks of `fathom eval` from command line options.
#pragma once

#include <string>
#include <vector>

#include "cli/eval_run.h"
#include "eval/item_file.h"
#include "eval/needles.h"
#include "eval/perplexity.h"

namespace fathom::cli {

struct PerplexityFlags {
  eval::PerplexityOptions options{.context = 0};  // 0: 4096, or the model's context if less,
  int64_t min_windows = 0;  // and less if the texts would have fewer windows than this
  void add_to(CLI::App& command);
};
std::unique_ptr<eval::Task> perplexity_task(const std::string& name,
                                            const std::vector<std::string>& paths,
                                            const PerplexityFlags& flags, const TaskSource& source);

struct NeedleFlags {
  eval::NeedleOptions options;
  std::string text;    // a file
  bool brief = false;  // default lengths grow by a factor of four, not two
  void add_to(CLI::App& command);
};
std::unique_ptr<eval::Task> needles_task(const NeedleFlags& flags, uint64_t seed,
                                         const TaskSource& source);

struct ItemFlags {
  eval::ItemSettings settings;
  void add_to(CLI::App& command, const std::string& kind);
};
// `kind`: choice or answer; empty: decided by the file or its items.
std::unique_ptr<eval::Task> items_task(const std::string& path, const std::string& kind,
                                       const eval::ItemSettings& flags, uint64_t seed,
                                       const TaskSource& source);

struct ParityFlags {
  std::vector<std::string> tasks;  // files, and the word needles
  PerplexityFlags perplexity;
  NeedleFlags needles;

  // Needles are one task among several here, with a smaller grid than in `eval needles`.
  ParityFlags() {
    needles.brief = true;
    needles.options.depths = {0, 0.5, 1};
    needles.options.count = 1;
  }
  void add_to(CLI::App& command);
};
// Returns the tasks in the folder eval/ of a checkpoint, and needles. Throws UsageError if there
// are none.
std::vector<std::string> tasks_of_folder(const std::string& folder);
Tasks parity_tasks(const ParityFlags& flags, uint64_t seed, const TaskSource& source);

}  // namespace fathom::cli
