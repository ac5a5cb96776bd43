// Limits of containers, on made-up trees of /proc and /sys.
#include "base/control_group.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "base/processors.h"
#include "support/fake_system.h"

namespace fathom {
namespace {

using test::FakeSystem;

constexpr int64_t kGiB = int64_t{1} << 30;
constexpr const char* kV2 =
    "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
constexpr const char* kV1 =
    "33 30 0:30 / /sys/fs/cgroup/memory rw,nosuid shared:15 - cgroup cgroup rw,memory\n"
    "34 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:16 master:2 - cgroup cgroup "
    "rw,cpu,cpuacct\n";

TEST(ControlGroup, NoneMeansNoLimit) {
  const FakeSystem nothing;
  EXPECT_FALSE(control_group_memory(nothing.root()));
  EXPECT_FALSE(control_group_processors(nothing.root()));
  FakeSystem unlimited;
  unlimited.file("proc/self/cgroup", "0::/\n");
  unlimited.file("proc/self/mountinfo", kV2);
  unlimited.file("sys/fs/cgroup/memory.max", "max\n");
  unlimited.file("sys/fs/cgroup/memory.high", "max\n");
  unlimited.file("sys/fs/cgroup/memory.current", "123\n");
  unlimited.file("sys/fs/cgroup/cpu.max", "max 100000\n");
  EXPECT_FALSE(control_group_memory(unlimited.root()));
  EXPECT_FALSE(control_group_processors(unlimited.root()));
}

// The example: a limit of 2 GiB, all of it pages of files that were read twice.
TEST(ControlGroup, PageCacheThatCanBeDroppedIsAvailable) {
  FakeSystem v2;
  v2.file("proc/self/cgroup", "0::/\n");
  v2.file("proc/self/mountinfo", kV2);
  v2.file("sys/fs/cgroup/memory.max", "2147483648\n");
  v2.file("sys/fs/cgroup/memory.current", "2147483648\n");
  v2.file("sys/fs/cgroup/memory.stat",
          "anon 104857600\nfile 2042626048\nshmem 4096\ninactive_file 42626048\n"
          "active_file 2000000000\n");
  EXPECT_EQ(control_group_memory(v2.root()), 2042626048);
  // Nothing to drop, and usage above the limit.
  v2.file("sys/fs/cgroup/memory.stat", "inactive_file 0\nactive_file 0\n");
  EXPECT_EQ(control_group_memory(v2.root()), 0);
  v2.file("sys/fs/cgroup/memory.current", "3000000000\n");
  EXPECT_EQ(control_group_memory(v2.root()), 0);
  // More to drop than is used (the figures are not of one moment) is no more than the limit.
  v2.file("sys/fs/cgroup/memory.current", "4096\n");
  v2.file("sys/fs/cgroup/memory.stat", "inactive_file 8192\nactive_file 8192\n");
  EXPECT_EQ(control_group_memory(v2.root()), 2 * kGiB);
}

TEST(ControlGroup, TheSoftLimitCounts) {
  FakeSystem v2;
  v2.file("proc/self/cgroup", "0::/\n");
  v2.file("proc/self/mountinfo", kV2);
  v2.file("sys/fs/cgroup/memory.max", "8589934592\n");
  v2.file("sys/fs/cgroup/memory.high", "1073741824\n");
  v2.file("sys/fs/cgroup/memory.current", "0\n");
  EXPECT_EQ(control_group_memory(v2.root()), kGiB);
}

TEST(ControlGroup, LimitsOfAllGroupsAbove) {
  FakeSystem v2;
  v2.file("proc/self/cgroup", "0::/kubepods/pod 1/app\n");
  v2.file("proc/self/mountinfo", kV2);
  const std::string top = "sys/fs/cgroup/kubepods/";
  v2.file(top + "memory.max", "8589934592\n");
  v2.file(top + "memory.current", "7516192768\n");  // 1 GiB left, of which others take most
  v2.file(top + "memory.stat", "inactive_file 1048576\nactive_file 1048576\n");
  v2.file(top + "pod 1/memory.max", "max\n");
  v2.file(top + "pod 1/memory.current", "0\n");
  v2.file(top + "pod 1/app/memory.max", "4294967296\n");
  v2.file(top + "pod 1/app/memory.current", "1048576\n");
  EXPECT_EQ(control_group_memory(v2.root()), kGiB + 2 * 1048576);
  v2.file(top + "cpu.max", "400000 100000\n");
  v2.file(top + "pod 1/cpu.max", "75000 50000\n");
  v2.file(top + "pod 1/app/cpu.max", "max 100000\n");
  EXPECT_EQ(control_group_processors(v2.root()), 1.5);
}

TEST(ControlGroup, Version1) {
  FakeSystem v1;
  v1.file("proc/self/cgroup",
          "12:pids:/x\n4:memory:/docker/a:b\n3:cpu,cpuacct:/docker/a:b\n1:name=systemd:/\n");
  v1.file("proc/self/mountinfo", kV1);
  const std::string memory = "sys/fs/cgroup/memory/docker/";
  v1.file("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  v1.file("sys/fs/cgroup/memory/memory.usage_in_bytes", "99999999999\n");
  v1.file(memory + "memory.limit_in_bytes", "18446744073709551615\n");
  v1.file(memory + "memory.usage_in_bytes", "1\n");
  v1.file(memory + "a:b/memory.limit_in_bytes", "3221225472\n");
  v1.file(memory + "a:b/memory.usage_in_bytes", "3221225472\n");
  v1.file(memory + "a:b/memory.stat",
          "cache 5\ninactive_file 7\nactive_file 7\nhierarchical_memsw_limit 18446744073709551615\n"
          "total_inactive_file 1073741824\ntotal_active_file 1048576\n");
  EXPECT_EQ(control_group_memory(v1.root()), kGiB + 1048576);
  EXPECT_FALSE(control_group_processors(v1.root()));
  const std::string cpu = "sys/fs/cgroup/cpu,cpuacct/docker/";
  v1.file(cpu + "a:b/cpu.cfs_quota_us", "-1\n");
  v1.file(cpu + "a:b/cpu.cfs_period_us", "100000\n");
  EXPECT_FALSE(control_group_processors(v1.root()));
  v1.file(cpu + "cpu.cfs_quota_us", "250000\n");
  v1.file(cpu + "cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(control_group_processors(v1.root()), 2.5);
  v1.file(cpu + "a:b/cpu.cfs_quota_us", "50000\n");
  EXPECT_EQ(control_group_processors(v1.root()), 0.5);
}

// A container sees its own group as the root of what is mounted. What lies above is told by one
// figure.
TEST(ControlGroup, ContainerThatSeesItsOwnGroupAlone) {
  FakeSystem v1;
  v1.file("proc/self/cgroup", "4:memory:/docker/abc/job\n3:cpu,cpuacct:/docker/abc\n");
  v1.file("proc/self/mountinfo",
          "51 50 0:30 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
          "52 50 0:31 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu,cpuacct\n");
  v1.file("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  v1.file("sys/fs/cgroup/memory/memory.usage_in_bytes", "1000\n");
  v1.file("sys/fs/cgroup/memory/memory.stat", "hierarchical_memory_limit 5000\n");
  v1.file("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "4500\n");
  v1.file("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "100\n");
  v1.file("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "100000\n");
  v1.file("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(control_group_memory(v1.root()), 4000);
  EXPECT_EQ(control_group_processors(v1.root()), 1.0);
}

// A path of the host, where only the container's part is there; a group above the visible part; the
// list of mounts hidden.
TEST(ControlGroup, PathsThatLeadNowhereEndAtTheOutermostGroup) {
  for (const char* path : {"0::/system.slice/docker-1.scope\n", "0::/../../other\n", "0::/..\n"}) {
    FakeSystem v2;
    v2.file("proc/self/cgroup", path);
    v2.file("proc/self/mountinfo", kV2);
    v2.file("sys/fs/cgroup/memory.max", "5000\n");
    v2.file("sys/fs/cgroup/memory.current", "1000\n");
    EXPECT_EQ(control_group_memory(v2.root()), 4000) << path;
  }
  FakeSystem hidden;
  hidden.file("proc/self/cgroup", "0::/a\n");
  hidden.file("sys/fs/cgroup/cgroup.controllers", "cpu memory\n");
  hidden.file("sys/fs/cgroup/a/memory.max", "5000\n");
  hidden.file("sys/fs/cgroup/a/memory.current", "1000\n");
  EXPECT_EQ(control_group_memory(hidden.root()), 4000);
}

// systemd's hybrid layout: version 1 has the controllers, version 2 none, or the other way round.
TEST(ControlGroup, BothVersionsSideBySide) {
  FakeSystem both;
  both.file("proc/self/cgroup", "4:memory:/job\n2:cpu:/\n0::/session\n");
  both.file("proc/self/mountinfo",
            "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
            "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
  both.file("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "7000\n");
  both.file("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "1000\n");
  both.file("sys/fs/cgroup/unified/session/cpu.max", "200000 100000\n");
  EXPECT_EQ(control_group_memory(both.root()), 6000);
  EXPECT_EQ(control_group_processors(both.root()), 2.0);
}

TEST(ControlGroup, MountPointsWithBlanksAndSecondMounts) {
  FakeSystem odd;
  odd.file("proc/self/cgroup", "0::/mine/job\n");
  odd.file("proc/self/mountinfo",
           "40 30 0:26 /other /mnt/part rw - cgroup2 cgroup2 rw\n"
           "41 30 0:26 / /mnt/my\\040groups rw shared:1 - cgroup2 cgroup2 rw\n"
           "a line that is none\n");
  odd.file("mnt/my groups/mine/job/memory.max", "900\n");
  odd.file("mnt/my groups/mine/job/memory.current", "100\n");
  odd.file("mnt/part/memory.max", "1\n");
  EXPECT_EQ(control_group_memory(odd.root()), 800);
}

TEST(ControlGroup, WhatIsNotANumberIsNoLimit) {
  for (const char* text : {"", "\n", "maximum\n", "-5\n", "0x10 y\n"}) {
    FakeSystem v2;
    v2.file("proc/self/cgroup", "0::/\nnonsense\n::\n");
    v2.file("proc/self/mountinfo", kV2);
    v2.file("sys/fs/cgroup/memory.max", text);
    v2.file("sys/fs/cgroup/cpu.max", text);
    if (std::string(text) != "0x10 y\n") {
      EXPECT_FALSE(control_group_memory(v2.root())) << text;
    }
    EXPECT_FALSE(control_group_processors(v2.root())) << text;
  }
}

// Four cores of two threads each: processors 0 and 4, 1 and 5, ... share a core.
void add_topology(FakeSystem& system, const char* name) {
  for (int p = 0; p < 8; ++p)
    system.file("sys/devices/system/cpu/cpu" + std::to_string(p) + "/topology/" + name,
                std::to_string(p % 4) + "," + std::to_string(p % 4 + 4) + "\n");
}

TEST(Processors, OneThreadAPhysicalCore) {
  for (const char* name : {"core_cpus_list", "thread_siblings_list"}) {
    FakeSystem system;
    add_topology(system, name);
    EXPECT_EQ(find_processors(system.root(), {0, 1, 2, 3, 4, 5, 6, 7}).threads(), 4);
    EXPECT_EQ(find_processors(system.root(), {0, 4}).threads(), 1);
    EXPECT_EQ(find_processors(system.root(), {0, 4}).at_once(), 2);
    EXPECT_EQ(find_processors(system.root(), {0, 1, 5}).threads(), 2);
  }
  // A system that does not tell of cores has as many as processors.
  const FakeSystem silent;
  EXPECT_EQ(find_processors(silent.root(), {0, 3, 6}).threads(), 3);
}

TEST(Processors, QuotasAreRoundedDownAndGiveOneThreadAtLeast) {
  const struct {
    const char* quota;
    int threads;
  } cases[] = {{"100000 100000", 1}, {"50000 100000", 1},  {"1000 1000000", 1},
               {"199999 100000", 1}, {"200000 100000", 2}, {"250000 100000", 2},
               {"75000 25000", 3},   {"max 100000", 4},    {"9000000 100000", 4}};
  for (const auto& c : cases) {
    FakeSystem system;
    add_topology(system, "core_cpus_list");
    system.file("proc/self/cgroup", "0::/\n");
    system.file("proc/self/mountinfo", kV2);
    system.file("sys/fs/cgroup/cpu.max", std::string(c.quota) + "\n");
    EXPECT_EQ(find_processors(system.root(), {0, 1, 2, 3, 4, 5, 6, 7}).threads(), c.threads)
        << c.quota;
    // The mask bounds what a quota gives.
    EXPECT_EQ(find_processors(system.root(), {1}).threads(), 1) << c.quota;
  }
}

TEST(Processors, WhyThereAreFewer) {
  Processors p;
  p.online = p.allowed = 16;
  p.cores = 16;
  EXPECT_EQ(p.describe(), "");
  p.quota = 2.5;
  EXPECT_EQ(p.describe(), "2 threads: the control group's quota is 2.5 of 16 processors");
  p.quota = 20;
  p.cores = 8;
  EXPECT_EQ(p.describe(), "8 threads: one a physical core of 16 processors");
  p.allowed = p.cores = 1;
  EXPECT_EQ(p.describe(), "1 thread: the affinity mask has 1 of 16 processors");
}

TEST(Processors, ProcessesOfOneMachineShareThem) {
  Processors p;
  p.online = p.allowed = 16;
  p.cores = 8;
  p.processes = 2;
  EXPECT_EQ(p.threads(), 4);
  EXPECT_EQ(p.at_once(), 8);
  EXPECT_EQ(p.describe(),
            "4 threads for each of 2 processes on this machine, of 8 threads: one a physical core "
            "of 16 processors");
  p.cores = 16;
  EXPECT_EQ(p.describe(), "8 threads for each of 2 processes on this machine");
  p.quota = 5;
  EXPECT_EQ(p.threads(), 2);
  p.processes = 32;
  EXPECT_EQ(p.threads(), 1);
  EXPECT_EQ(p.at_once(), 1);

  share_processors(4);
  EXPECT_EQ(find_processors().processes, 4);
  share_processors(1);
  EXPECT_EQ(find_processors().processes, 1);
}

}  // namespace
}  // namespace fathom
