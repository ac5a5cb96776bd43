// A made-up tree of /proc and /sys, for readers that take the root of the file system.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>

#include "support/temp_folder.h"

namespace fathom::test {

class FakeSystem {
 public:
  // Below which the files lie: what stands in front of "/proc/meminfo".
  std::string root() const { return folder_.path(); }

  // Writes a file; `path` has no slash in front.
  void file(const std::string& path, const std::string& content) {
    const std::filesystem::path at = std::filesystem::path(folder_.path()) / path;
    std::filesystem::create_directories(at.parent_path());
    std::ofstream(at, std::ios::binary) << content;
  }

 private:
  TempFolder folder_;
};

}  // namespace fathom::test
