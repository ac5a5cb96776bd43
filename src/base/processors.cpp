#include "base/processors.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <set>

#include "base/control_group.h"

namespace fathom {
namespace {

// The processors of this process's affinity mask; empty if the system does not report them. A
// machine may have more of them than cpu_set_t holds: the call then fails and is repeated with a
// larger set.
std::vector<int> own_mask() {
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

int Processors::at_once() const {
  return quota ? std::clamp(static_cast<int>(std::min(*quota, 1e6)), 1, allowed) : allowed;
}

int Processors::threads() const { return std::min(at_once(), cores); }

std::string Processors::describe() const {
  const int n = threads();
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
  if (allowed.empty()) allowed = own_mask();
  p.online = std::max(1, static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)));
  p.allowed = allowed.empty() ? p.online : static_cast<int>(allowed.size());
  p.online = std::max(p.online, p.allowed);
  p.cores = allowed.empty() ? p.online : count_cores(root, allowed);
  p.quota = control_group_processors(root);
  return p;
}

}  // namespace fathom
