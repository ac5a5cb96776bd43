// Owned memory: Buffer (one block) and Arena (one block carved into tensors at start-up). Neither
// grows, and neither may be created during a step: see NoAlloc.
#pragma once

#include <cstddef>
#include <memory>

#include "tensor/tensor.h"

namespace fathom {

// While one of these is alive on a thread, Buffer refuses to allocate: the promise that a step
// allocates nothing enforces itself.
class NoAlloc {
 public:
  explicit NoAlloc(const char* phase) : before_(phase_) { phase_ = phase; }
  ~NoAlloc() { phase_ = before_; }
  NoAlloc(const NoAlloc&) = delete;
  NoAlloc& operator=(const NoAlloc&) = delete;
  static void check(size_t bytes) {
    FATHOM_CHECK(phase_ == nullptr, "allocated {} bytes during {}", bytes, phase_);
  }

 private:
  inline static thread_local const char* phase_ = nullptr;
  const char* before_;
};

// 64-byte aligned (huge-page aligned when large), zero-filled by the kernel on first touch, so that
// on a NUMA machine a page lands on the node of the thread that first writes it.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes);  // throws Error when the machine has not that much
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  std::byte* data() const { return data_; }
  size_t size() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

// Bump allocator over one Buffer. `reset` keeps the memory.
class Arena {
 public:
  explicit Arena(size_t bytes) : buffer_(bytes) {}
  // Aligned to 64 bytes; a request that does not fit is a bug (sizes are planned beforehand).
  void* take(size_t bytes);
  Tensor tensor(DType dtype, std::initializer_list<int64_t> shape);
  void reset() { used_ = 0; }
  size_t used() const { return used_; }
  size_t size() const { return buffer_.size(); }

 private:
  Buffer buffer_;
  size_t used_ = 0;
};

}  // namespace fathom
