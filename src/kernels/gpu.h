// The GPU as other folders see it: whether there is one, its Ops, and copies to its memory. This
// header includes no CUDA header. In a build without CUDA, GpuInfo::why_not says so.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "kernels/ops.h"
#include "kernels/qweight.h"

namespace fathom {

class CommGroup;

struct GpuInfo {
  bool usable = false;
  std::string name;     // "NVIDIA H100 80GB HBM3"
  std::string why_not;  // why it is not usable, for the user
  int count = 0;        // of this machine
  int64_t free = 0;     // bytes of memory
};

// Describes the first GPU of this machine, or the first `ranks` GPUs if a model runs on several. It
// is usable if all of them are; `free` is the least of them. Never throws: having no GPU is no
// error.
GpuInfo find_gpu(int ranks = 1);

// From now on the calling thread uses the GPU of `rank`.
void use_gpu(int rank);

// Links ranks that are threads of this process; the tensors of rank r lie in the memory of GPU
// first + r. join() throws Error when two of the GPUs cannot access each other's memory.
std::shared_ptr<CommGroup> make_gpu_group(int ranks, int first = 0);
// Bytes of GPU memory that such a link takes per rank.
int64_t gpu_exchange_bytes(int ranks);

// `observed`: tensors lie in memory that host and GPU share, and every op is finished before it
// returns. For observers, which read tensors between the ops; slow. Throws Error for numerics and
// dims that the kernels are not built for, and when memory does not suffice.
std::unique_ptr<Ops> make_gpu_ops(Numerics numerics, const Workload& workload, bool observed);

// Bytes that make_gpu_ops takes for itself besides weights, cache and activations.
int64_t gpu_workspace_bytes(Numerics numerics, const Workload& workload);

// Data for `bytes` bytes (at most kUploadPiece) of GPU memory at `to`: `fill` writes them to the
// host address that it is given. Called on several threads at once.
struct UploadPiece {
  void* to = nullptr;
  size_t bytes = 0;
  std::function<void(std::byte*)> fill;
};
// Small enough for the buffers of all threads to stay in the processors' caches between the copy
// that fills them and the one that the GPU makes.
inline constexpr size_t kUploadPiece = size_t{2} << 20;

// Copies the pieces to the GPU through pinned buffers. Several threads fill buffers at once, and
// call `filled` with the bytes of each.
void upload_to_gpu(std::span<const UploadPiece> pieces,
                   const std::function<void(int64_t bytes)>& filled = {});

// Copies bytes within the GPU's memory. The copy is complete on return.
void copy_on_gpu(void* to, const void* from, size_t bytes);

// Fill GPU memory with values of a counter-based generator: the same seed gives the same values.
// e4m3 codes with a standard deviation of 64; bf16 values with a standard deviation of `scale`.
void fill_random_fp8(void* to, int64_t count, uint64_t seed);
void fill_random_bf16(void* to, int64_t count, float scale, uint64_t seed);

}  // namespace fathom
