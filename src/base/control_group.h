// What the control groups (cgroups) of this process leave it: the limits of containers, of
// systemd's services and of batch systems. Version 1, version 2, and both side by side are read.
//
// A process is in one group of each hierarchy (/proc/self/cgroup), a group lies in others, and the
// limits of all of them hold: the tightest rules. Where a hierarchy is mounted is said by
// /proc/self/mountinfo; a container often sees a part of it, then the part's root is the outermost
// group there is to ask.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace fathom {

// Both functions read below `root`, which tests replace by a folder of theirs.

// Bytes that the groups still allow: limit - usage + page cache that can be dropped (active and
// inactive file pages), of the group where this is least, and at least 0. The limits are memory.max
// and memory.high of version 2 (above `high` the system slows a process down until it has given
// memory back), memory.limit_in_bytes and hierarchical_memory_limit of version 1. Nothing: no
// limit.
std::optional<int64_t> control_group_memory(const std::string& root = "");

// Processors' worth of time that the groups allow (cpu.max; cpu.cfs_quota_us over
// cpu.cfs_period_us), e.g. 1.5. Nothing: no limit.
std::optional<double> control_group_processors(const std::string& root = "");

}  // namespace fathom
