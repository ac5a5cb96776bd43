// Memory and NUMA nodes of this machine.
#pragma once

#include <cstdint>
#include <string>

namespace fathom {

// Returns how many bytes a program can take without swapping others out: MemAvailable, or what the
// control groups allow if that is less (base/control_group.h). 0 if unknown. Files are read below
// `root`, which tests replace.
int64_t available_memory(const std::string& root = "");

// Returns the number of NUMA nodes that have processors; 1 if unknown.
int numa_nodes(const std::string& root = "");

}  // namespace fathom
