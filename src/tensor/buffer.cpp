#include "tensor/buffer.h"

#include <sys/mman.h>

#if defined(FATHOM_WITH_CUDA)
#include <cuda_runtime_api.h>
#endif

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace fathom {
namespace {

void* host_memory(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) fail("cannot allocate {} bytes: {}", bytes, std::strerror(errno));
  madvise(p, bytes, MADV_HUGEPAGE);  // only advice; huge pages mean fewer TLB misses
  return p;
}

#if defined(FATHOM_WITH_CUDA)
void* cuda_memory(size_t bytes, MemoryKind kind) {
  void* p = nullptr;
  // Shared memory beyond what the GPU has free would page back and forth, and can hang the card.
  if (kind == MemoryKind::shared && bytes > device_memory_free())
    fail("{} bytes of memory shared with the GPU asked for, it has {} free", bytes,
         device_memory_free());
  cudaError_t e = kind == MemoryKind::pinned   ? cudaMallocHost(&p, bytes)
                  : kind == MemoryKind::device ? cudaMalloc(&p, bytes)
                                               : cudaMallocManaged(&p, bytes);
  // The memory is cleared before it is used: work on other streams does not wait for the default
  // stream.
  if (e == cudaSuccess && kind != MemoryKind::pinned) {
    e = cudaMemset(p, 0, bytes);
    if (e == cudaSuccess) e = cudaStreamSynchronize(nullptr);
  }
  if (e != cudaSuccess)
    fail("cannot allocate {} bytes of {} memory: {} ({} bytes free)", bytes,
         kind == MemoryKind::pinned ? "pinned" : "GPU", cudaGetErrorString(e),
         device_memory_free());
  return p;
}

void free_cuda_memory(void* p, MemoryKind kind) {
  // An error here is one of an earlier kernel and was reported where it could be handled.
  if (kind == MemoryKind::pinned)
    cudaFreeHost(p);
  else
    cudaFree(p);
}
#else
void* cuda_memory(size_t, MemoryKind) { fail("this build of fathom has no CUDA"); }
void free_cuda_memory(void*, MemoryKind) {}
#endif

}  // namespace

size_t device_memory_free() {
#if defined(FATHOM_WITH_CUDA)
  size_t free = 0, total = 0;
  if (cudaMemGetInfo(&free, &total) == cudaSuccess) return free;
#endif
  return 0;
}

Buffer::Buffer(size_t bytes, MemoryKind kind) : bytes_(bytes), kind_(kind) {
  NoAlloc::check(bytes);
  if (bytes == 0) return;
  data_ = static_cast<std::byte*>(kind == MemoryKind::host ? host_memory(bytes)
                                                           : cuda_memory(bytes, kind));
}

Buffer::~Buffer() {
  if (!data_) return;
  if (kind_ == MemoryKind::host)
    munmap(data_, bytes_);
  else
    free_cuda_memory(data_, kind_);
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      kind_(other.kind_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(kind_, other.kind_);
  return *this;
}

void* Arena::take(size_t bytes) {
  size_t begin = (used_ + 255) / 256 * 256;
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
