// What a machine has to give, on made-up trees of /proc and /sys.
#include "io/machine.h"

#include <gtest/gtest.h>

#include "support/fake_system.h"

namespace fathom {
namespace {

using test::FakeSystem;

constexpr const char* kMeminfo =
    "MemTotal:       24683656 kB\nMemFree:        1000 kB\nMemAvailable:   8388608 kB\n";
constexpr int64_t kGiB = int64_t{1} << 30;

TEST(AvailableMemory, WhatTheMachineHas) {
  FakeSystem system;
  system.file("proc/meminfo", kMeminfo);
  EXPECT_EQ(available_memory(system.root()), 8 * kGiB);
}

TEST(AvailableMemory, TheContainersLimitWhenThatIsLess) {
  FakeSystem system;
  system.file("proc/meminfo", kMeminfo);
  system.file("proc/self/cgroup", "0::/\n");
  system.file("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
  system.file("sys/fs/cgroup/memory.max", "2147483648\n");
  system.file("sys/fs/cgroup/memory.current", "2147483648\n");
  system.file("sys/fs/cgroup/memory.stat", "inactive_file 0\nactive_file 1073741824\n");
  EXPECT_EQ(available_memory(system.root()), kGiB);
  system.file("sys/fs/cgroup/memory.max", "1099511627776\n");
  EXPECT_EQ(available_memory(system.root()), 8 * kGiB);
}

// A sandbox without /proc: the kernel itself is asked, and it never says 0.
TEST(AvailableMemory, WithoutProc) {
  const FakeSystem system;
  EXPECT_GT(available_memory(system.root()), 0);
  EXPECT_GT(available_memory(), 0);
}

TEST(NumaNodes, ThoseWithProcessors) {
  FakeSystem system;
  EXPECT_EQ(numa_nodes(system.root()), 1) << "the system does not say";
  for (auto [list, nodes] : {std::pair{"0\n", 1}, {"0-1\n", 2}, {"0,2-5,7\n", 6}, {"\n", 1}}) {
    system.file("sys/devices/system/node/has_cpu", list);
    EXPECT_EQ(numa_nodes(system.root()), nodes) << list;
  }
}

}  // namespace
}  // namespace fathom
