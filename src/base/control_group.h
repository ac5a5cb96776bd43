// The limits that control groups (cgroups) set for this process: those of containers, systemd
// services and batch systems. Version 1, version 2 and both side by side are read.
//
// A process belongs to one group of each hierarchy (/proc/self/cgroup). Groups are nested, and the
// tightest limit of a group and all groups around it applies. /proc/self/mountinfo says where a
// hierarchy is mounted. A container often sees only a part of the hierarchy; the root of that part
// is then the outermost group that is asked.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace fathom {

// Both functions read files below `root`, which tests replace by a folder of their own.

// Returns how many bytes the groups still allow, at least 0; nothing if there is no limit. A group
// allows limit - usage + page cache that can be dropped (active and inactive file pages); the group
// that allows least counts. The limits are memory.max and memory.high of version 2 (above `high`
// the system slows a process down until it has given memory back), and memory.limit_in_bytes and
// hierarchical_memory_limit of version 1.
std::optional<int64_t> control_group_memory(const std::string& root = "");

// Returns how many processors' worth of time the groups allow (cpu.max; cpu.cfs_quota_us over
// cpu.cfs_period_us), e.g. 1.5; nothing if there is no limit.
std::optional<double> control_group_processors(const std::string& root = "");

}  // namespace fathom
