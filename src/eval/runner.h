// Runs the items of a task through an engine, many at once, and keeps each result as it comes.
#pragma once

#include <functional>
#include <vector>

#include "eval/results_file.h"
#include "eval/task.h"
#include "runtime/engine.h"

namespace fathom::eval {

struct Progress {
  size_t items = 0, done = 0;           // done: kept ones of an earlier run included
  int64_t tokens = 0, tokens_done = 0;  // of prompts, in this run
  // As tokens_done, but with requests under way, whose prompts go side by side.
  int64_t tokens_computed = 0;
  double seconds = 0;  // of this run
};

struct RunOptions {
  int at_once = 8;  // requests submitted and not yet answered
  // Tokens of prompts that are submitted and still to be computed; a further item waits until they
  // are fewer. Long prompts side by side would share every step, each with a few rows that read all
  // of its context: one after the other they are computed faster.
  int64_t prompt_tokens = 1024;
  std::vector<int32_t> stop_ids;
  bool watch_selection = false;  // the engine keeps selections
  // Called between steps.
  std::function<void(const Progress&)> progress;
  std::function<bool()> stopped;  // true: what is under way is given up, what is done is kept
};

struct RunResult {
  std::vector<Record> records;   // by item, kept ones included
  std::vector<Skipped> skipped;  // the task's own and those the engine refused
  bool complete = true;          // not stopped
  size_t kept = 0;               // records of an earlier run
  Progress progress;
};

// From the thread that steps the engine, which has no other requests; null where every item is
// known to be kept, or when it has been asked to stop. Throws Error when the device or the results
// file fails.
RunResult run_task(Engine* engine, const Task& task, const RunLabel& label, ResultsFile& results,
                   const RunOptions& options);

}  // namespace fathom::eval
