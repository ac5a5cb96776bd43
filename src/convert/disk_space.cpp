#include "convert/disk_space.h"

#include <sys/statvfs.h>

#include <filesystem>

#include "base/error.h"
#include "base/progress.h"
#include "base/units.h"

namespace fathom {

void check_disk_space(const std::string& folder, uint64_t needed) {
  namespace fs = std::filesystem;
  fs::path at = fs::absolute(folder);
  std::error_code ignored;
  while (!fs::exists(at, ignored) && at.has_relative_path()) at = at.parent_path();
  struct statvfs disk {};
  if (statvfs(at.c_str(), &disk) != 0) return;  // a filesystem that does not report its space
  uint64_t available = static_cast<uint64_t>(disk.f_bavail) * disk.f_frsize;
  if (available < needed)
    fail("not enough disk space at {}: {} needed, {} free", at.string(), bytes_text(needed),
         bytes_text(available));
}

}  // namespace fathom
