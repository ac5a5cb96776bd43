#include "kernels/cuda/prim/launch.h"

#include "base/error.h"

namespace fathom::cuda {

void device_error(cudaError_t e, const char* call, const char* file, int line) {
  fail("CUDA: {} ({}:{}): {} ({})", call, file, line, cudaGetErrorString(e), cudaGetErrorName(e));
}

void fail_plain(const char* message) { fail("CUDA: {}", message); }

}  // namespace fathom::cuda
