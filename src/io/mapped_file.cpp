#include "io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace fathom {

MappedFile::MappedFile(const std::string& path) : path_(path) {
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail("cannot open {}: {}", path, std::strerror(errno));
  struct stat info {};
  int failed = fstat(fd, &info) != 0 ? errno : 0;
  bool regular = S_ISREG(info.st_mode);
  if (!failed && regular && info.st_size > 0) {
    size_ = static_cast<size_t>(info.st_size);
    void* p = mmap(nullptr, size_, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
      failed = errno;
    else
      data_ = static_cast<std::byte*>(p);
  }
  close(fd);  // the mapping keeps the file
  if (failed) fail("cannot map {}: {}", path, std::strerror(failed));
  if (!regular) fail("cannot map {}: expected a file, found a folder or device", path);
}

MappedFile::~MappedFile() {
  if (data_) munmap(data_, size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace fathom
