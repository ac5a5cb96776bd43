#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/check.h"
#include "base/error.h"
#include "base/output_file.h"
#include "io/safetensors.h"

namespace fathom {
namespace {

constexpr uint64_t kAlign = 64;

std::string quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

uint64_t bytes_of(const TensorDecl& t) {
  uint64_t bytes = size_of(t.dtype);
  for (int64_t d : t.shape)
    FATHOM_CHECK(d >= 0 && !__builtin_mul_overflow(bytes, static_cast<uint64_t>(d), &bytes),
                 "tensor {} of shape {}", t.name, shape_text(t.shape));
  return bytes;
}

// Opens PART for this process alone. A file left by a killed run is taken over; one that another
// process is writing is refused.
int open_locked(const std::string& part) {
  while (true) {
    int fd = open(part.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) fail("cannot create {}: {}", part, std::strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
      close(fd);
      fail("cannot write {}: another process is writing it", part);
    }
    // Between open and lock the other process may have finished and renamed the file: then what
    // was locked here is its result and must not be touched.
    struct stat locked {
    }, named{};
    if (fstat(fd, &locked) == 0 && stat(part.c_str(), &named) == 0 &&
        locked.st_ino == named.st_ino && locked.st_dev == named.st_dev)
      return fd;
    close(fd);
  }
}

// 0 or an errno. Where the filesystem cannot reserve space the size alone is set.
int reserve(int fd, uint64_t bytes) {
  if (ftruncate(fd, 0) != 0) return errno;
  if (fallocate(fd, 0, 0, static_cast<off_t>(bytes)) == 0) return 0;
  if (errno != EOPNOTSUPP && errno != ENOSYS) return errno;
  return ftruncate(fd, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
}

}  // namespace

SafetensorsLayout layout_safetensors(const std::vector<TensorDecl>& tensors,
                                     const std::map<std::string, std::string>& metadata) {
  size_t n = tensors.size();
  SafetensorsLayout layout;
  layout.sizes.resize(n);
  layout.offsets.resize(n);
  for (size_t i = 0; i < n; ++i) layout.sizes[i] = bytes_of(tensors[i]);
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  auto rank = [&](size_t i) {
    return layout.sizes[i] % kAlign == 0 ? -64 : -static_cast<int>(size_of(tensors[i].dtype));
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return rank(a) < rank(b); });

  std::string header = "{";
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata)
      header += fmt::format("{}:{},", quoted(key), quoted(value));
    header.back() = '}';
    header += ',';
  }
  uint64_t at = 0;
  for (size_t i : order) {
    const TensorDecl& t = tensors[i];
    header +=
        fmt::format(R"({}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}},)", quoted(t.name),
                    name_of(t.dtype), fmt::join(t.shape, ","), at, at + layout.sizes[i]);
    layout.offsets[i] = at;
    at += layout.sizes[i];
  }
  if (header.back() == ',')
    header.back() = '}';
  else
    header += '}';
  header.resize((header.size() + 8 + kAlign - 1) / kAlign * kAlign - 8, ' ');
  uint64_t data_start = header.size() + 8;
  for (uint64_t& offset : layout.offsets) offset += data_start;
  layout.file_bytes = data_start + at;
  layout.front.resize(8);
  for (int i = 0; i < 8; ++i) layout.front[i] = static_cast<char>(header.size() >> (8 * i));
  layout.front += header;
  return layout;
}

SafetensorsWriter::SafetensorsWriter(std::string path, std::vector<TensorDecl> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : path_(std::move(path)),
      file_(output_file(path_)),
      part_(file_ + ".part"),
      tensors_(std::move(tensors)) {
  for (size_t i = 0; i < tensors_.size(); ++i)
    FATHOM_CHECK(index_.emplace(tensors_[i].name, i).second, "tensor {} declared twice",
                 tensors_[i].name);
  SafetensorsLayout layout = layout_safetensors(tensors_, metadata);
  sizes_ = std::move(layout.sizes);
  offsets_ = std::move(layout.offsets);
  file_bytes_ = layout.file_bytes;

  fd_ = open_locked(part_);
  try {
    if (int error = reserve(fd_, file_bytes_))
      fail("cannot write {}: it takes {} bytes: {}", path_, file_bytes_, std::strerror(error));
    put(0, layout.front.data(), layout.front.size());
  } catch (...) {
    discard();  // the destructor does not run for a constructor that throws
    throw;
  }
}

SafetensorsWriter::~SafetensorsWriter() { discard(); }

void SafetensorsWriter::discard() {
  if (fd_ < 0) return;
  unlink(part_.c_str());
  close(fd_);
  fd_ = -1;
}

size_t SafetensorsWriter::index_of(const std::string& name) const {
  auto it = index_.find(name);
  FATHOM_CHECK(it != index_.end(), "tensor {} was not declared", name);
  return it->second;
}

void SafetensorsWriter::put(uint64_t at, const void* data, size_t bytes) {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    ssize_t n = pwrite(fd_, from, bytes, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0)
      fail("cannot write {}: at byte {} of {}: {}", path_, at, file_bytes_,
           n < 0 ? std::strerror(errno) : "nothing was taken");
    from += n;
    at += static_cast<uint64_t>(n);
    bytes -= static_cast<size_t>(n);
  }
}

void SafetensorsWriter::write(size_t tensor, uint64_t offset, const void* data, size_t bytes) {
  FATHOM_CHECK(fd_ >= 0 && tensor < tensors_.size(), "tensor {} of {}", tensor, tensors_.size());
  FATHOM_CHECK(offset <= sizes_[tensor] && bytes <= sizes_[tensor] - offset,
               "tensor {}: bytes [{}, +{}) of {}", tensors_[tensor].name, offset, bytes,
               sizes_[tensor]);
  put(offsets_[tensor] + offset, data, bytes);
  written_ += bytes;
}

void SafetensorsWriter::write(const std::string& name, const void* data) {
  size_t i = index_of(name);
  write(i, 0, data, sizes_[i]);
}

void SafetensorsWriter::finish() {
  uint64_t expected = std::accumulate(sizes_.begin(), sizes_.end(), uint64_t{0});
  FATHOM_CHECK(written_ == expected, "{}: {} of {} bytes written", path_, written_.load(),
               expected);
  // The data is synced before the file gets its final name, and the folder is synced before this
  // returns.
  if (fsync(fd_) != 0) fail("cannot write {}: {}", path_, std::strerror(errno));
  if (rename(part_.c_str(), file_.c_str()) != 0)
    fail("cannot rename {} to {}: {}", part_, file_, std::strerror(errno));
  close(fd_);
  fd_ = -1;
  std::string folder = std::filesystem::path(file_).parent_path();
  int dir = open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir >= 0) {
    fsync(dir);
    close(dir);
  }
}

void write_safetensors(const std::string& path, const std::vector<TensorData>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<TensorDecl> list;
  list.reserve(tensors.size());
  for (const TensorData& t : tensors) list.push_back({t.name, t.dtype, t.shape});
  SafetensorsWriter writer(path, std::move(list), metadata);
  for (const TensorData& t : tensors) writer.write(t.name, t.data);
  writer.finish();
}

}  // namespace fathom
