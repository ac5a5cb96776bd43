// What every kernel launch needs, and the two device sides of programmatic dependent launch.
//
// With `pdl` a kernel may start while the one before it on the stream is still running: it must
// call pdl_wait() before it touches anything an earlier kernel writes or may still read. Weights
// are the exception: nothing writes them during a step, so they may be prefetched in front of the
// wait.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <utility>

namespace fathom::cuda {

// Device code and fmt do not compile together (nvcc), so kernels' files see these two, and checks
// with formatted messages live in .cpp files.
[[noreturn]] void device_error(cudaError_t e, const char* call, const char* file, int line);
[[noreturn]] void fail_plain(const char* message);

// Throws Error with the failing call: device errors are the world's, not a bug to abort on.
inline void check(cudaError_t e, const char* call, const char* file, int line) {
  if (e != cudaSuccess) device_error(e, call, file, line);
}
inline void require(bool condition, const char* message) {
  if (!condition) fail_plain(message);
}
#define FATHOM_CUDA(call) ::fathom::cuda::check((call), #call, __FILE__, __LINE__)

// Where and how an op runs. `workspace` is scratch of the op that is running only.
struct Launch {
  cudaStream_t stream = nullptr;
  int sms = 132;
  bool pdl = true;
  bool batch_invariant = false;  // a row's bits may not depend on the other rows of the batch
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
};

// Launches `kernel` with `smem` bytes of dynamic shared memory; `cluster` CTAs along x share a
// cluster.
template <class... Params, class... Args>
void launch_kernel(const Launch& l, void (*kernel)(Params...), dim3 grid, dim3 block, size_t smem,
                   unsigned cluster, Args&&... args) {
  if (smem > 48 * 1024)
    FATHOM_CUDA(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                     cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     static_cast<int>(smem)));
  cudaLaunchAttribute attributes[2] = {};
  unsigned n = 0;
  if (l.pdl) {
    attributes[n].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[n++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    attributes[n].id = cudaLaunchAttributeClusterDimension;
    attributes[n++].val.clusterDim = {cluster, 1, 1};
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = smem;
  config.stream = l.stream;
  config.attrs = attributes;
  config.numAttrs = n;
  FATHOM_CUDA(
      cudaLaunchKernelEx(&config, kernel, static_cast<Params>(std::forward<Args>(args))...));
}

#if defined(__CUDACC__)
// Waits until every kernel this one depends on has finished and its writes are visible.
__device__ __forceinline__ void pdl_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// Lets the next kernel of the stream start (its own pdl_wait still waits for this grid's end).
__device__ __forceinline__ void pdl_trigger() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}
#endif

}  // namespace fathom::cuda
