// Records of runs, a JSON line each, appended as items end: what is measured is kept whatever
// happens next, and a second run goes on behind it.
//
//   {"run": "<32 hex digits>", "task": "prose", "variant": "sparse", "item": 3, "where":
//   "a.txt:12",
//    "value": 812.25, "weight": 4095, "detail": {...}}
//
// `run` names everything that decides a record: task, model, numerics, kernels. Records of other
// runs may stand in the same file.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "eval/task.h"

namespace fathom::eval {

// What stands in front of a record.
struct RunLabel {
  PageKey run;
  std::string task, variant;
};

// Thread-compatible.
class ResultsFile {
 public:
  // An empty path keeps records in memory alone. A line that was cut off at the end of the file (a
  // run was killed while it wrote) is taken off again. Throws Error for what is no results file,
  // with the line, and for one that another run has open.
  explicit ResultsFile(std::string path = {});
  ~ResultsFile();
  ResultsFile(const ResultsFile&) = delete;
  ResultsFile& operator=(const ResultsFile&) = delete;

  // Kept records of a run, by item. Of two for one item the first counts.
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
