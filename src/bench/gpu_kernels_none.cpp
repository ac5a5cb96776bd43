// A build without CUDA has no kernels of the GPU to time.
#include "base/error.h"
#include "bench/gpu_kernels.h"
#include "kernels/gpu.h"

#if !defined(FATHOM_WITH_CUDA)
namespace fathom {

void bench_gpu_kernels(const std::string&) { fail("{}", find_gpu().why_not); }

}  // namespace fathom
#endif
