// Owned memory: Buffer (one block) and Arena (one block carved into tensors at start-up). Neither
// grows, and neither may be created during a step: see NoAlloc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "tensor/tensor.h"

namespace fathom {

// While a NoAlloc exists on a thread, a Buffer that is created there fails a FATHOM_CHECK. It is
// used to enforce that a step allocates nothing.
class NoAlloc {
 public:
  explicit NoAlloc(const char* phase) : before_(phase_) { phase_ = phase; }
  ~NoAlloc() { phase_ = before_; }
  NoAlloc(const NoAlloc&) = delete;
  NoAlloc& operator=(const NoAlloc&) = delete;
  static void check([[maybe_unused]] size_t bytes) {
    FATHOM_CHECK(phase_ == nullptr, "allocated {} bytes during {}", bytes, phase_);
  }

 private:
  inline static thread_local const char* phase_ = nullptr;
  const char* before_;
};

// Where memory lies and who may access it.
//   host    processors only
//   pinned  processors; a GPU copies from and to it at full speed, while the host goes on
//   device  one GPU only
//   shared both; a page moves to the side that accesses it. Slow: for observers (self-check, taps)
enum class MemoryKind : uint8_t { host, pinned, device, shared };

// Host memory is 64-byte aligned (huge-page aligned when large), zero-filled by the kernel on first
// touch, so that on a NUMA machine a page lands on the node of the thread that first writes it.
// Device memory is 256-byte aligned and zero-filled too.
class Buffer {
 public:
  Buffer() = default;
  // Throws Error when there is not that much memory, or when a build without CUDA is asked for GPU
  // memory.
  explicit Buffer(size_t bytes, MemoryKind kind = MemoryKind::host);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  std::byte* data() const { return data_; }
  size_t size() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  MemoryKind kind_ = MemoryKind::host;
};

// Free memory of the current GPU in bytes; 0 without one.
size_t device_memory_free();

// Bump allocator over one Buffer. `reset` keeps the memory.
class Arena {
 public:
  explicit Arena(size_t bytes, MemoryKind kind = MemoryKind::host) : buffer_(bytes, kind) {}
  // Returns memory aligned to 256 bytes, enough for a GPU's copy engine and for vector loads. A
  // request that does not fit is a bug: sizes are planned beforehand.
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
