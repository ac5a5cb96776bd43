// Shared by the commands of `fathom eval`: variants, saved results, progress, reports.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cli/eval_model.h"
#include "eval/report.h"
#include "eval/task.h"

namespace fathom::cli {

struct EvalRunOptions {
  VariantOptions variants;
  std::string results, save, markdown, svg;
  uint64_t seed = 1;
  bool json = false;

  void add_to(CLI::App& command);
  void add_svg(CLI::App& command, const std::string& what);
};

// What tasks are made from; each checkpoint has its own.
struct TaskSource {
  const Tokenizer& tokenizer;
  Encoding encoding;
  const Config& config;
  // Tokens of prompt and answer that an item may have.
  int64_t max_context() const { return config.max_positions; }
};
using Tasks = std::vector<std::unique_ptr<eval::Task>>;
using MakeTasks = std::function<Tasks(const TaskSource&)>;

// Draws a report as a picture.
using DrawReport = std::function<std::string(const eval::Report&)>;

// Runs every task in every variant and shows the report. Returns the exit code: 0; 1 when no item
// of a task could be measured; 130 when Ctrl-C ended it.
int run_eval(const EvalRunOptions& options, const MakeTasks& make, const DrawReport& draw = {});

}  // namespace fathom::cli
