#include "tensor/buffer.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace fathom {

Buffer::Buffer(size_t bytes) : bytes_(bytes) {
  NoAlloc::check(bytes);
  if (bytes == 0) return;
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) fail("cannot allocate {} bytes: {}", bytes, std::strerror(errno));
  madvise(p, bytes, MADV_HUGEPAGE);  // a wish; fewer TLB misses where the system grants it
  data_ = static_cast<std::byte*>(p);
}

Buffer::~Buffer() {
  if (data_) munmap(data_, bytes_);
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

void* Arena::take(size_t bytes) {
  size_t begin = (used_ + 63) / 64 * 64;
  FATHOM_CHECK(begin + bytes <= buffer_.size(), "arena of {} bytes asked for {} at {}",
               buffer_.size(), bytes, begin);
  used_ = begin + bytes;
  return buffer_.data() + begin;
}

Tensor Arena::tensor(DType dtype, std::initializer_list<int64_t> shape) {
  size_t elements = 1;
  for (int64_t d : shape) elements *= static_cast<size_t>(d);
  return Tensor(take(elements * size_of(dtype)), dtype, shape);
}

}  // namespace fathom
