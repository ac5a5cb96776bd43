// What this machine has to give.
#pragma once

#include <cstdint>
#include <string>

namespace fathom {

// Bytes a program can take without pushing others out: MemAvailable, or what the control groups
// leave when that is less (base/control_group.h). 0 when the system does not say. Files are read
// below `root`, which tests replace.
int64_t available_memory(const std::string& root = "");

// NUMA nodes that have processors; 1 where the system does not say.
int numa_nodes(const std::string& root = "");

}  // namespace fathom
