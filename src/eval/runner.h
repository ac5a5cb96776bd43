// Runs the items of a task through an engine, many at once, and keeps each result as it comes.
#pragma once

#include <functional>
#include <vector>

#include "eval/results_file.h"
#include "eval/task.h"
#include "runtime/engine.h"

namespace fathom::eval {

struct Progress {
  size_t items = 0, done = 0;           // `done` includes those of an earlier run
  int64_t tokens = 0, tokens_done = 0;  // of prompts, in this run
  // As tokens_done, plus the tokens computed for requests in flight.
  int64_t tokens_computed = 0;
  double seconds = 0;  // of this run
};

struct RunOptions {
  int at_once = 8;  // requests in flight
  // A further item is submitted only while fewer prompt tokens than this are submitted and not
  // computed. Several long prompts at once would share every step, each with a few rows that read
  // all of its context; one after the other they are computed faster.
  int64_t prompt_tokens = 1024;
  std::vector<int32_t> stop_ids;
  bool watch_selection = false;  // the engine keeps selections
  // Called between steps.
  std::function<void(const Progress&)> progress;
  std::function<bool()> stopped;  // true: requests in flight are cancelled; finished items are kept
};

struct RunResult {
  std::vector<Record> records;   // by item, with those of an earlier run
  std::vector<Skipped> skipped;  // those of the task and those that the engine refused
  bool complete = true;          // not stopped
  size_t kept = 0;               // records of an earlier run
  Progress progress;
};

// Runs the task. Called on the thread that steps the engine; the engine must have no other
// requests. `engine` may be null if the results of all items exist, or if `stopped` is true. Throws
// Error when the device or the results file fails.
RunResult run_task(Engine* engine, const Task& task, const RunLabel& label, ResultsFile& results,
                   const RunOptions& options);

}  // namespace fathom::eval
