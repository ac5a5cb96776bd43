#include "io/machine.h"

#include <algorithm>
#include <fstream>
#include <string>

namespace fathom {
namespace {

// The number after `key` in a file of "key value" lines; -1 when it is not there.
int64_t number_of(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::string word;
  while (file >> word)
    if (int64_t value; word == key && file >> value) return value;
  return -1;
}

int64_t number_in(const std::string& path) {
  std::ifstream file(path);
  int64_t value = -1;
  return file >> value ? value : -1;  // "max" reads as no limit
}

}  // namespace

int64_t available_memory() {
  int64_t free = std::max<int64_t>(0, number_of("/proc/meminfo", "MemAvailable:")) * 1024;
  const std::string group = "/sys/fs/cgroup/";
  int64_t limit = number_in(group + "memory.max");
  int64_t used = number_in(group + "memory.current");
  // Pages of files count as used but are given back on demand.
  int64_t files = std::max<int64_t>(0, number_of(group + "memory.stat", "inactive_file"));
  if (limit >= 0 && used >= 0) free = std::min(free, std::max<int64_t>(0, limit - used + files));
  return free;
}

}  // namespace fathom
