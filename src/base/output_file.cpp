#include "base/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "base/error.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxLinks = 40;  // as Linux

[[noreturn]] void cannot_write(const std::string& path, int error) {
  fail("cannot write {}: {}", path, std::strerror(error));
}

// 0 or an errno.
int write_all(int fd, std::string_view content) {
  while (!content.empty()) {
    const ssize_t n = ::write(fd, content.data(), content.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n < 0 ? errno : EIO;
    content.remove_prefix(static_cast<size_t>(n));
  }
  return ::fsync(fd) == 0 ? 0 : errno;
}

}  // namespace

std::string output_file(const std::string& path) {
  fs::path file = path;
  std::error_code error;
  for (int links = 0; fs::is_symlink(file, error); ++links) {
    const fs::path target = fs::read_symlink(file, error);
    if (error || links == kMaxLinks) cannot_write(path, error ? error.value() : ELOOP);
    file = file.parent_path() / target;  // the target alone where it is absolute
  }
  struct stat info {};
  if (::stat(file.c_str(), &info) == 0 && !S_ISREG(info.st_mode))
    fail("cannot write {}: it is {}, and a file is expected", path,
         S_ISDIR(info.st_mode) ? "a folder" : "a device, pipe or socket");
  return file;
}

void check_output_file(const std::string& path) {
  const fs::path folder = fs::path(output_file(path)).parent_path();
  if (::access(folder.empty() ? "." : folder.c_str(), W_OK | X_OK) != 0) cannot_write(path, errno);
}

void write_output_file(const std::string& path, std::string_view content) {
  const std::string file = output_file(path), part = fmt::format("{}.{}.tmp", file, ::getpid());
  const int fd = ::open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) cannot_write(path, errno);
  int error = write_all(fd, content);
  if (::close(fd) != 0 && error == 0) error = errno;
  if (error == 0 && std::rename(part.c_str(), file.c_str()) != 0) error = errno;
  if (error == 0) return;
  ::unlink(part.c_str());
  cannot_write(path, error);
}

}  // namespace fathom
