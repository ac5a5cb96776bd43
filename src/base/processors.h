// How many processors this process may use, and how many threads it should start.
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
  int processes = 1;            // that share all this, with as many threads each

  // Threads for work that keeps a processor busy: one per physical core, because two threads on one
  // core share its vector units. There are no more than the quota has whole processors, and at
  // least one. The quota is rounded down: with one more thread the system would stop all of them
  // for a part of every period. What is left of the quota serves the HTTP threads.
  int threads() const;

  // Threads that can run at the same time. If more are started, a thread that spins keeps another
  // from its work.
  int at_once() const;

  // Says why threads() is less than the machine's processors, e.g. "2 threads: the control group's
  // quota is 2.5 of 16 processors"; empty if it is not less.
  std::string describe() const;
};

// Returns the values of this process. Files are read below `root`. Tests give a folder of their
// own, and in `allowed` the processors of an affinity mask (empty: the process's own mask).
Processors find_processors(const std::string& root = "", std::vector<int> allowed = {});

// The processors of this process's affinity mask; empty if the system does not report them.
std::vector<int> allowed_processors();

// From now on this process shares its processors with others that compute at the same time:
// `processes` with this one.
void share_processors(int processes);

}  // namespace fathom
