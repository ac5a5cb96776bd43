// A whole file, read-only, as memory. Pages are read when touched and may be dropped again by the
// system, so a checkpoint larger than the machine's memory can be opened.
#pragma once

#include <cstddef>
#include <string>

namespace fathom {

// Bytes past the end are never mapped into view; but a file that someone shortens while it is
// mapped kills the process (SIGBUS), as with every program that maps files.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);  // throws Error when it cannot be read
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  const std::byte* data() const { return data_; }  // null when the file is empty
  size_t size() const { return size_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace fathom
