#include "io/machine.h"

#include <sys/sysinfo.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>

#include "base/control_group.h"

namespace fathom {
namespace {

// The value of a line "key: value kB" of /proc/meminfo, in bytes.
std::optional<int64_t> meminfo(const std::string& root, std::string_view key) {
  std::ifstream file(root + "/proc/meminfo");
  std::string word;
  int64_t kib = 0;
  while (file >> word)
    if (word == key && file >> kib) return kib * 1024;
  return std::nullopt;
}

// The available memory of the whole machine, 0 if unknown. Without /proc (some sandboxes and
// chroots) sysinfo() is asked, which reports free memory but not what could be freed.
int64_t memory_of_machine(const std::string& root) {
  if (const auto available = meminfo(root, "MemAvailable:"))
    return std::max<int64_t>(0, *available);
  struct sysinfo info {};
  if (sysinfo(&info) != 0) return 0;
  return static_cast<int64_t>((info.freeram + info.bufferram) * info.mem_unit);
}

}  // namespace

int64_t available_memory(const std::string& root) {
  const int64_t machine = memory_of_machine(root);
  const std::optional<int64_t> group = control_group_memory(root);
  return group ? std::min(machine, *group) : machine;
}

int numa_nodes(const std::string& root) {
  // A list of ranges: "0-1,4".
  std::ifstream file(root + "/sys/devices/system/node/has_cpu");
  int nodes = 0, first = 0, last = 0;
  while (file >> first) {
    last = first;
    if (file.peek() == '-') file.get(), file >> last;
    nodes += std::max(0, last - first + 1);
    if (file.peek() == ',') file.get();
  }
  return std::max(1, nodes);
}

}  // namespace fathom
