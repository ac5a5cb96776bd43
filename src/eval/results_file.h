// ResultsFile: records of runs, one JSON line each. A record is appended as soon as its item ends,
// so results survive a crash, and a second run continues where the first one ended.
//
//   {"run": "<32 hex digits>", "task": "prose", "variant": "sparse", "item": 3,
//    "where": "a.txt:12", "value": 812.25, "weight": 4095, "detail": {...}}
//
// `run` is a key of everything that a record depends on: task, model, numerics, kernels. The same
// file may hold records of other runs.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "eval/task.h"

namespace fathom::eval {

// The run, task and variant of a record.
struct RunLabel {
  PageKey run;
  std::string task, variant;
};

// Thread-compatible.
class ResultsFile {
 public:
  // With an empty path records are kept in memory only. An incomplete last line (a run was killed
  // while it wrote) is removed. Throws Error if the file is no results file, with the line, and if
  // another run has it open.
  explicit ResultsFile(std::string path = {});
  ~ResultsFile();
  ResultsFile(const ResultsFile&) = delete;
  ResultsFile& operator=(const ResultsFile&) = delete;

  // Returns the records of a run, by item. If an item has two, the first counts.
  std::map<size_t, Record> find(const PageKey& run) const;
  void append(const RunLabel& label, const std::string& where, const Record& record);

 private:
  void read();
  void keep(const std::string& run, const Record& record);
  void cut_off(std::string_view rest, size_t line, size_t end);
  [[noreturn]] void throw_foreign(size_t line) const;

  std::string path_;
  int file_ = -1;
  std::map<std::string, std::map<size_t, Record>> records_;
};

}  // namespace fathom::eval
