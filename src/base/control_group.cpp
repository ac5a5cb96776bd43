#include "base/control_group.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string_view>
#include <vector>

namespace fathom {
namespace {

namespace fs = std::filesystem;

// A limit of this or more is none: version 1 says "no limit" as the largest multiple of a page.
constexpr int64_t kNoLimit = int64_t{1} << 60;

// The group of this process in one hierarchy, and where the hierarchy is mounted.
struct Group {
  fs::path mount;
  fs::path path;  // of the group, below `mount`
  bool unified = false;
};

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

bool lists(const std::string& names, std::string_view name) {
  const std::vector<std::string> all = split(names, ',');
  return std::find(all.begin(), all.end(), name) != all.end();
}

// mountinfo writes blanks, tabs, newlines and backslashes of a path as \ and three octal digits.
std::string unescaped(const std::string& text) {
  const auto octal = [](char c) { return c >= '0' && c <= '7'; };
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size() && octal(text[i + 1]) && octal(text[i + 2]) &&
        octal(text[i + 3])) {
      out += static_cast<char>(std::strtol(text.substr(i + 1, 3).c_str(), nullptr, 8));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

// The path of this process's group in the hierarchy of `controller` (version 1), or in the unified
// one (an empty `controller`).
std::optional<std::string> own_path(const std::string& root, std::string_view controller) {
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    // hierarchy:controllers:path; a path may hold colons.
    const size_t first = line.find(':');
    const size_t second = first == line.npos ? line.npos : line.find(':', first + 1);
    if (second == line.npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (controller.empty() ? line.starts_with("0::") : lists(controllers, controller))
      return line.substr(second + 1);
  }
  return std::nullopt;
}

// `path` relative to `top`, the part of the hierarchy that is mounted. A group outside of that part
// cannot be read; the outermost group that can be is `top` itself.
fs::path below(const std::string& top, const std::string& path) {
  fs::path relative =
      fs::path(path).lexically_normal().lexically_relative(fs::path(top).lexically_normal());
  if (relative.empty() || *relative.begin() == ".." || relative == ".") return {};
  return relative;
}

std::optional<Group> find_group(const std::string& root, std::string_view controller) {
  const std::optional<std::string> path = own_path(root, controller);
  if (!path) return std::nullopt;
  // A hierarchy may be mounted in several places; the mount that shows this group is taken.
  std::optional<Group> found;
  std::error_code ignored;
  std::ifstream file(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    // id parent device top mount-point options [more...] - type source super-options
    const size_t dash = line.find(" - ");
    if (dash == line.npos) continue;
    const std::vector<std::string> front = split(line.substr(0, dash), ' ');
    const std::vector<std::string> back = split(line.substr(dash + 3), ' ');
    if (front.size() < 5 || back.size() < 3) continue;
    const bool unified = controller.empty();
    if (back[0] != (unified ? "cgroup2" : "cgroup")) continue;
    if (!unified && !lists(back[2], controller)) continue;
    Group group{root + unescaped(front[4]), below(unescaped(front[3]), *path), unified};
    if (!group.path.empty() && fs::exists(group.mount / group.path, ignored)) return group;
    if (!found) found = std::move(group);
  }
  if (found) return found;
  // Without a list of mounts, look in the usual place.
  const std::string usual = root + "/sys/fs/cgroup";
  if (controller.empty() && fs::exists(usual + "/cgroup.controllers", ignored))
    return Group{usual, below("/", *path), true};
  if (!controller.empty() && fs::exists(fs::path(usual) / controller, ignored))
    return Group{fs::path(usual) / controller, below("/", *path), false};
  return std::nullopt;
}

// Calls `visit` with the folder of the group and of each one that it lies in, up to the mount's
// root.
void for_each_level(const Group& group, const std::function<void(const fs::path&)>& visit) {
  fs::path path = group.path;
  while (!path.empty()) {
    visit(group.mount / path);
    path = path.parent_path();
  }
  visit(group.mount);
}

// A whole number. Nothing for "max" and for numbers beyond int64, which mean no limit either.
std::optional<int64_t> number(const std::string& text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() ? std::optional(value) : std::nullopt;
}

// The number that a file begins with; nothing for files that are not there.
std::optional<int64_t> number_in(const fs::path& path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  return number(word);
}

// The number behind `key` in a file of lines "key value".
std::optional<int64_t> number_of(const fs::path& path, std::string_view key) {
  std::ifstream file(path);
  std::string word, value;
  while (file >> word >> value)
    if (word == key) return number(value);
  return std::nullopt;
}

template <class T>
void tighten(std::optional<T>& least, std::optional<T> limit) {
  if (limit && (!least || *limit < *least)) least = limit;
}

void tighten_memory(std::optional<int64_t>& least, std::optional<int64_t> limit) {
  if (limit && *limit >= 0 && *limit < kNoLimit) tighten(least, limit);
}

// Page cache of a group and of those inside it. Pages of files in use count as active, and are
// dropped all the same when memory is asked for.
int64_t droppable(const fs::path& group, const std::array<const char*, 2>& keys) {
  int64_t bytes = 0;
  for (const char* key : keys)
    bytes += std::max<int64_t>(0, number_of(group / "memory.stat", key).value_or(0));
  return bytes;
}

std::optional<int64_t> left_of(std::optional<int64_t> limit, std::optional<int64_t> used,
                               int64_t droppable_bytes) {
  if (!limit || !used) return limit;
  // Usage may stand above a limit that was lowered, and what can be dropped is part of the usage.
  const int64_t kept = std::max<int64_t>(0, *used - droppable_bytes);
  return std::max<int64_t>(0, *limit - kept);
}

std::optional<int64_t> memory_left_v2(const fs::path& group) {
  std::optional<int64_t> limit;
  for (const char* name : {"memory.max", "memory.high"})
    tighten_memory(limit, number_in(group / name));
  return left_of(limit, number_in(group / "memory.current"),
                 droppable(group, {"active_file", "inactive_file"}));
}

std::optional<int64_t> memory_left_v1(const fs::path& group) {
  std::optional<int64_t> limit;
  tighten_memory(limit, number_in(group / "memory.limit_in_bytes"));
  // The tightest of the groups above, also of those that a container does not see.
  tighten_memory(limit, number_of(group / "memory.stat", "hierarchical_memory_limit"));
  return left_of(limit, number_in(group / "memory.usage_in_bytes"),
                 droppable(group, {"total_active_file", "total_inactive_file"}));
}

// "max 100000" or "150000 100000": microseconds of processor time in each period.
std::optional<double> quota_v2(const fs::path& group) {
  std::ifstream file(group / "cpu.max");
  double quota = 0, period = 0;
  if (!(file >> quota >> period) || quota <= 0 || period <= 0) return std::nullopt;
  return quota / period;
}

// A quota of -1 is none.
std::optional<double> quota_v1(const fs::path& group) {
  const std::optional<int64_t> quota = number_in(group / "cpu.cfs_quota_us");
  const std::optional<int64_t> period = number_in(group / "cpu.cfs_period_us");
  if (!quota || !period || *quota <= 0 || *period <= 0) return std::nullopt;
  return static_cast<double>(*quota) / static_cast<double>(*period);
}

// The lowest of the limits that `v1` and `v2` read for the groups of this process. On a system with
// both versions a controller belongs to one of them; the other has no such file.
template <class T>
std::optional<T> least_of(const std::string& root, const char* controller,
                          std::optional<T> (*v1)(const fs::path&),
                          std::optional<T> (*v2)(const fs::path&)) {
  std::optional<T> least;
  for (const char* name : {controller, ""})
    if (const std::optional<Group> group = find_group(root, name))
      for_each_level(*group, [&](const fs::path& level) {
        tighten(least, group->unified ? v2(level) : v1(level));
      });
  return least;
}

}  // namespace

std::optional<int64_t> control_group_memory(const std::string& root) {
  return least_of<int64_t>(root, "memory", memory_left_v1, memory_left_v2);
}

std::optional<double> control_group_processors(const std::string& root) {
  return least_of<double>(root, "cpu", quota_v1, quota_v2);
}

}  // namespace fathom
