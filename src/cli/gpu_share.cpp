#include "cli/gpu_share.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <vector>

#include "comm/comm.h"

namespace fathom::cli {
namespace {

constexpr const char* kVariable = "CUDA_VISIBLE_DEVICES";
constexpr const char* kNone = "-1";  // as CUDA reads it

// /dev/nvidia0 and so on: CUDA is not asked, as it looks at the variable once.
int gpus_there() {
  int count = 0;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator("/dev", none)) {
    const std::string name = entry.path().filename();
    constexpr std::string_view kPrefix = "nvidia";
    count += name.size() > kPrefix.size() && name.starts_with(kPrefix) &&
             std::all_of(name.begin() + kPrefix.size(), name.end(),
                         [](unsigned char c) { return std::isdigit(c) != 0; });
  }
  return count;
}

}  // namespace

std::string gpus_of_process(const std::optional<std::string>& visible, int there, Sharing sharing) {
  std::vector<std::string> all;
  if (visible) {
    std::istringstream in(*visible);
    for (std::string gpu; std::getline(in, gpu, ',');) all.push_back(gpu);
  } else {
    for (int i = 0; i < there; ++i) all.push_back(std::to_string(i));
  }
  const auto count = static_cast<int64_t>(all.size());
  // Of too few the first processes have one each, so that it is the others that miss theirs.
  const PartRange own = count >= sharing.count
                            ? part_of(count, sharing.place, sharing.count)
                            : PartRange{sharing.place, std::min<int64_t>(count, sharing.place + 1)};
  if (own.size() <= 0) return kNone;
  return fmt::format("{}", fmt::join(all.begin() + own.begin, all.begin() + own.end, ","));
}

void take_own_gpus(Sharing sharing) {
  if (sharing.count == 1) return;
  const char* visible = std::getenv(kVariable);
  const int there = gpus_there();
  if (there == 0 || (visible && *visible == '\0')) return;
  ::setenv(
      kVariable,
      gpus_of_process(visible ? std::optional<std::string>(visible) : std::nullopt, there, sharing)
          .c_str(),
      1);
}

}  // namespace fathom::cli
