// A build without CUDA: there is no GPU, and asking for one anyway says why.
#include "base/error.h"
#include "kernels/gpu.h"

#if !defined(FATHOM_WITH_CUDA)
namespace fathom {
namespace {

constexpr const char* kWhyNot =
    "this build of fathom has no CUDA (nvcc was not found when it was built)";

}  // namespace

GpuInfo find_gpu(int) {
  GpuInfo info;
  info.why_not = kWhyNot;
  return info;
}

void use_gpu(int) { fail("{}", kWhyNot); }
std::shared_ptr<CommGroup> make_gpu_group(int, int) { fail("{}", kWhyNot); }
int64_t gpu_exchange_bytes(int) { fail("{}", kWhyNot); }
std::unique_ptr<Ops> make_gpu_ops(Numerics, const Workload&, bool) { fail("{}", kWhyNot); }
void upload_to_gpu(std::span<const UploadPiece>, const std::function<void(int64_t)>&) {
  fail("{}", kWhyNot);
}
void copy_on_gpu(void*, const void*, size_t) { fail("{}", kWhyNot); }
void fill_random_fp8(void*, int64_t, uint64_t) { fail("{}", kWhyNot); }
void fill_random_bf16(void*, int64_t, float, uint64_t) { fail("{}", kWhyNot); }

}  // namespace fathom
#endif
