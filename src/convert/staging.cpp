#include "convert/staging.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>

#include "base/error.h"
#include "base/output_file.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
constexpr const char* kFolder = ".convert-part";
constexpr const char* kPlanFile = "plan.json";
constexpr const char* kDone = "done";

void write_all(int fd, const std::string& path, uint64_t at, const char* from, size_t bytes) {
  while (bytes > 0) {
    ssize_t n = pwrite(fd, from, bytes, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0)
      fail("cannot write {}: {}", path, n < 0 ? std::strerror(errno) : "nothing was taken");
    from += n;
    at += static_cast<uint64_t>(n);
    bytes -= static_cast<size_t>(n);
  }
}

// Writes and syncs the whole file, or throws Error.
void write_file(const std::string& path, const std::string& text) {
  int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) fail("cannot create {}: {}", path, std::strerror(errno));
  try {
    write_all(fd, path, 0, text.data(), text.size());
    if (fsync(fd) != 0) fail("cannot write {}: {}", path, std::strerror(errno));
  } catch (...) {
    close(fd);
    throw;
  }
  close(fd);
}

void move_file(const std::string& from, const std::string& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0)
    fail("cannot rename {} to {}: {}", from, to, std::strerror(errno));
}

}  // namespace

std::string slurp(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

bool has_layout(const std::string& path, const SafetensorsLayout& layout) {
  std::error_code error;
  if (fs::file_size(path, error) != layout.file_bytes || error) return false;
  std::ifstream file(path, std::ios::binary);
  std::string front(layout.front.size(), '\0');
  file.read(front.data(), static_cast<std::streamsize>(front.size()));
  return file && front == layout.front;
}

PartFile::PartFile(PartFile&& other) noexcept
    : path_(std::move(other.path_)), layout_(other.layout_), fd_(std::exchange(other.fd_, -1)) {}

PartFile::~PartFile() { close_file(); }

void PartFile::close_file() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

bool PartFile::reopen() {
  if (!has_layout(path_, layout_)) return false;
  fd_ = open(path_.c_str(), O_WRONLY | O_CLOEXEC);
  return fd_ >= 0;
}

void PartFile::create() {
  fd_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) fail("cannot create {}: {}", path_, std::strerror(errno));
  auto size = static_cast<off_t>(layout_.file_bytes);
  // Where the filesystem cannot reserve space the size alone is set.
  bool done = fallocate(fd_, 0, 0, size) == 0;
  if (!done && (errno == EOPNOTSUPP || errno == ENOSYS)) done = ftruncate(fd_, size) == 0;
  if (!done)
    fail("cannot write {}: it takes {} bytes: {}", path_, layout_.file_bytes, std::strerror(errno));
  write(0, layout_.front.data(), layout_.front.size());
}

void PartFile::write(uint64_t at, const void* data, size_t bytes) {
  write_all(fd_, path_, at, static_cast<const char*>(data), bytes);
}

void PartFile::sync() {
  if (fdatasync(fd_) != 0) fail("cannot write {}: {}", path_, std::strerror(errno));
}

Staging::Staging(const std::string& save, std::string manifest)
    : save_(save), manifest_(std::move(manifest)) {
  std::error_code error;
  fs::create_directories(save_, error);
  if (error) fail("cannot create folder {}: {}", save_, error.message());
  lock_ = open(save_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (lock_ < 0) fail("cannot open folder {}: {}", save_, std::strerror(errno));
  if (flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    close(lock_);
    fail("{}: another convert is writing there", save_);
  }
  if (!fs::exists(path(kPlanFile)) || slurp(path(kPlanFile)) != manifest_) return;
  resumable_ = true;
  std::string text = slurp(path(kDone));
  std::from_chars(text.data(), text.data() + text.size(), done_);
}

Staging::~Staging() { close(lock_); }

std::string Staging::path(const std::string& save, const std::string& name) {
  return (fs::path(save) / kFolder / name).string();
}

void Staging::restart() {
  remove();
  std::error_code error;
  fs::create_directory(path(""), error);
  if (error) fail("cannot create folder {}: {}", path(""), error.message());
  done_ = 0;
  write_file(path(kPlanFile), manifest_);
}

void Staging::note_done(uint64_t pieces) {
  // Written to another file and renamed: a half-written number would be a wrong number.
  std::string next = path(kDone) + ".new";
  write_file(next, fmt::format("{}\n", pieces));
  move_file(next, path(kDone));
  done_ = pieces;
}

void Staging::publish(const std::string& name) {
  move_file(path(name), output_file((fs::path(save_) / name).string()));
}

void Staging::publish_text(const std::string& name, const std::string& text) {
  write_file(path(name), text);
  publish(name);
}

void Staging::sync_folder() const { fsync(lock_); }

void Staging::remove() {
  std::error_code error;
  fs::remove_all(path(""), error);
  if (error) fail("cannot remove {}: {}", path(""), error.message());
}

}  // namespace fathom
