// A whole file, read-only, as memory. Pages are read when touched and may be dropped again by the
// system, so a checkpoint larger than the machine's memory can be opened.
#pragma once

#include <cstddef>
#include <string>

namespace fathom {

// size() is the size when the file was opened. If the file is shortened later, reading beyond its
// new end kills the process (SIGBUS), as in every program that maps files.
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
