// What every kernel launch needs, and the two device sides of programmatic dependent launch.
//
// With `pdl` a kernel may start while the one before it on the stream is still running. Rules for
// every kernel, which scripts/check_launches.sh checks in the source and in the compiled program:
//   1. Each block of threads calls pdl_wait(), on every path, also when it has nothing to do: when
//      a kernel has ended, all kernels before it must have ended, since the next one waits for it
//      alone.
//   2. In front of pdl_wait() a thread reads kernel arguments, weights and a step's inputs
//      (positions, page tables: a copy brings them, and copies do not overlap with kernels), and
//      writes its own shared memory. All else may be written, or still be read, by an earlier
//      kernel. Threads that do not wait themselves touch nothing else either, unless they are
//      behind a barrier that a waiting thread of their block has passed.
//   3. pdl_trigger() comes behind pdl_wait(): no more than two kernels of a chain overlap.
//   4. Non-coherent loads (__ldg, ld.global.nc, __restrict__) are for weights alone, through
//      load_weight(): PTX allows them for memory that no kernel under way writes.
//   5. A kernel that starts early shares its multiprocessor with the one before it, and its first
//      loads delay that one's. So nothing may depend on how long a load takes: a ring's stage that
//      ordinary loads have read goes back behind fence_reads_of_stage() (prim/barrier.h).
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

// Of a weight, through the read-only path: see rule 4.
template <class T>
__device__ __forceinline__ T load_weight(const T* p) {
  return __ldg(p);
}

// Lets the next kernel of the stream start (its own pdl_wait still waits for this grid's end).
__device__ __forceinline__ void pdl_trigger() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}
#endif

}  // namespace fathom::cuda
