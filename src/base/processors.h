// How many processors a program may use, and how many threads that makes.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace fathom {

struct Processors {
  int online = 1;               // of the machine
  int allowed = 1;              // of these, in the process's affinity mask
  int cores = 1;                // physical cores that the allowed ones belong to
  std::optional<double> quota;  // processors' worth of time that control groups allow

  // Threads for work that keeps a processor busy: one a physical core, for two on one core share
  // its vector units, and no more than the quota's whole processors, at least one. The quota is
  // rounded down: with a thread more the system would stop all of them for a part of every period,
  // and what is left over serves the threads of HTTP.
  int threads() const;

  // Threads that can run at the same time: where more are asked for, one that spins keeps another
  // from its work.
  int at_once() const;

  // Why threads() is less than the machine's processors, e.g. "2 threads: the control group's quota
  // is 2.5 of 16 processors"; empty where it is not less.
  std::string describe() const;
};

// Of this process. Files are read below `root`; tests hand over a folder of theirs, and `allowed`,
// the processors of a mask (empty: this process's own).
Processors find_processors(const std::string& root = "", std::vector<int> allowed = {});

}  // namespace fathom
