#include "base/processors.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <fstream>
#include <set>

#include "base/control_group.h"

namespace fathom {
namespace {

std::atomic<int> sharing_processes{1};

// Identifies a physical core by the list of its processors. Empty if the system does not report it.
std::string core_of(const std::string& root, int processor) {
  const std::string folder =
      fmt::format("{}/sys/devices/system/cpu/cpu{}/topology/", root, processor);
  for (const char* name : {"core_cpus_list", "thread_siblings_list"}) {  // the second: before 5.3
    std::ifstream file(folder + name);
    if (std::string list; file >> list) return list;
  }
  return {};
}

int count_cores(const std::string& root, const std::vector<int>& processors) {
  std::set<std::string> cores;
  for (const int p : processors) {
    std::string core = core_of(root, p);
    cores.insert(core.empty() ? fmt::format("processor {}", p) : std::move(core));
  }
  return static_cast<int>(cores.size());
}

std::string counted(int n, const char* what) {
  return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s");
}

}  // namespace

// A machine may have more processors than cpu_set_t holds: the call then fails and is repeated with
// a larger set.
std::vector<int> allowed_processors() {
  for (int room = 1024; room <= 1 << 20; room *= 2) {
    cpu_set_t* set = CPU_ALLOC(room);
    const size_t bytes = CPU_ALLOC_SIZE(room);
    CPU_ZERO_S(bytes, set);
    const bool told = sched_getaffinity(0, bytes, set) == 0;
    const bool larger = !told && errno == EINVAL;
    std::vector<int> mask;
    for (int i = 0; told && i < room; ++i)
      if (CPU_ISSET_S(static_cast<size_t>(i), bytes, set)) mask.push_back(i);
    CPU_FREE(set);
    if (!larger) return mask;
  }
  return {};
}

void share_processors(int processes) { sharing_processes = std::max(1, processes); }

int Processors::at_once() const {
  const int all = quota ? std::clamp(static_cast<int>(std::min(*quota, 1e6)), 1, allowed) : allowed;
  return std::max(1, all / processes);
}

int Processors::threads() const { return std::min(at_once(), std::max(1, cores / processes)); }

std::string Processors::describe() const {
  const int n = threads();
  if (processes > 1) {
    Processors all = *this;
    all.processes = 1;
    const std::string less = all.describe();
    return fmt::format("{} for each of {} processes on this machine{}", counted(n, "thread"),
                       processes, less.empty() ? "" : ", of " + less);
  }
  if (n >= online) return {};
  std::string why;
  if (n < cores)
    why = fmt::format("the control group's quota is {:.3g} of {}", *quota,
                      counted(online, "processor"));
  else if (cores < allowed)
    why = fmt::format("one a physical core of {}", counted(allowed, "processor"));
  else
    why = fmt::format("the affinity mask has {} of {}", allowed, counted(online, "processor"));
  return fmt::format("{}: {}", counted(n, "thread"), why);
}

Processors find_processors(const std::string& root, std::vector<int> allowed) {
  Processors p;
  if (allowed.empty()) allowed = allowed_processors();
  p.online = std::max(1, static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)));
  p.allowed = allowed.empty() ? p.online : static_cast<int>(allowed.size());
  p.online = std::max(p.online, p.allowed);
  p.cores = allowed.empty() ? p.online : count_cores(root, allowed);
  p.quota = control_group_processors(root);
  p.processes = sharing_processes;
  return p;
}

}  // namespace fathom
