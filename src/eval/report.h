// The figures of an evaluation, and how they are shown: text, Markdown, JSON. Names of JSON members
// are documented in docs/eval.md and must not change.
#pragma once

#include <string>
#include <vector>

#include "eval/runner.h"
#include "eval/statistics.h"
#include "eval/task.h"

namespace fathom::eval {

// One variant on one task.
struct Row {
  std::string variant;
  Estimate estimate;
  Json extra;
  size_t kept = 0;     // items measured by an earlier run
  int64_t tokens = 0;  // of prompts, computed in this run
  double seconds = 0;
  bool complete = true;
};

// Two variants, compared over the items that both have.
struct Comparison {
  std::string variant, reference;
  Estimate difference;  // variant - reference
  size_t equal = 0;     // items whose values are the same to the last bit
  // "no difference larger than 0.013 nats a token at 95 %"
  std::string verdict;
};

struct TaskReport {
  std::string name, kind;
  Metric metric = Metric::accuracy;
  size_t items = 0;
  std::vector<Row> rows;
  std::vector<Comparison> comparisons;
  std::vector<Skipped> skipped;    // each once
  std::vector<std::string> notes;  // what a reader of the figures should know
};

struct Report {
  std::string model;
  Json settings = Json::object();
  std::vector<TaskReport> tasks;

  bool complete() const;
  size_t skipped() const;
};

// The results of one variant on a task. Each checkpoint has its own Task object, with its own
// tokens.
struct VariantResult {
  std::string name;
  const Task* task = nullptr;
  RunResult run;
};

// Compares each variant with the last one, the reference, over the items that both have, matched by
// Task::where().
TaskReport report_of(const std::vector<VariantResult>& results);

std::string text_of(const Report& report);
std::string markdown_of(const Report& report);
Json json_of(const Report& report);
// Draws every difference with its interval, one line per task.
std::string parity_svg(const Report& report);

}  // namespace fathom::eval
