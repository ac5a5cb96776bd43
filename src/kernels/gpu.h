// The GPU as the folders above see it: whether there is one, its Ops, and how weights get into its
// memory. No CUDA header in sight; a build without CUDA says so in GpuInfo.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "kernels/ops.h"
#include "kernels/qweight.h"

namespace fathom {

struct GpuInfo {
  bool usable = false;
  std::string name;     // "NVIDIA H100 80GB HBM3"
  std::string why_not;  // when it is not usable, in words for the user
  int64_t free = 0;     // bytes of memory
};

// The first GPU. Never throws: a machine without one is a normal machine.
GpuInfo find_gpu();

// `observed`: tensors lie in memory that host and GPU share, and every op is finished before it
// returns. For observers, who read what lies between the ops; slow. Throws Error for numerics and
// dims that the kernels are not built for, and for memory that is not there.
std::unique_ptr<Ops> make_gpu_ops(Numerics numerics, const Workload& workload, bool observed);

// Bytes that make_gpu_ops takes for itself beside weights, cache and activations.
int64_t gpu_workspace_bytes(Numerics numerics, const Workload& workload);

// A part of what is to be written to `to`: `fill` puts its `bytes` (at most kUploadPiece) bytes at
// the address given. Called from several threads at once.
struct UploadPiece {
  void* to = nullptr;
  size_t bytes = 0;
  std::function<void(std::byte*)> fill;
};
inline constexpr size_t kUploadPiece = size_t{16} << 20;

// Fills memory of the GPU through pinned buffers, by several readers at once.
void upload_to_gpu(std::span<const UploadPiece> pieces);

// Bytes from one place of the GPU's memory to another, finished on return.
void copy_on_gpu(void* to, const void* from, size_t bytes);

// Values of a counter-based generator, the same for the same seed: e4m3 codes with a standard
// deviation of 64, or bf16 values with deviation `scale`.
void fill_random_fp8(void* to, int64_t count, uint64_t seed);
void fill_random_bf16(void* to, int64_t count, float scale, uint64_t seed);

}  // namespace fathom
