// Instantiations for many tokens: tokens on the M side.
#include "kernels/cuda/gemm/bf16_kernel.cuh"

namespace fathom::cuda {
namespace {

template <int kWarpgroups, int kColumns>
using Many = Bf16Config<kWarpgroups, kColumns, true, false>;

}  // namespace

void launch_bf16_many(const Bf16Plan& plan, const CUtensorMap& m, const CUtensorMap& n,
                      const Bf16Work& work, const Launch& l) {
  const bool done = launch_bf16_config<Many<1, 128>>(plan, m, n, work, l) ||
                    launch_bf16_config<Many<2, 128>>(plan, m, n, work, l) ||
                    launch_bf16_config<Many<2, 256>>(plan, m, n, work, l);
  require(done, "no bf16 kernel of this shape for many tokens");
}

}  // namespace fathom::cuda
