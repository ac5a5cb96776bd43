// Instantiations for few tokens: weights on the M side.
#include "kernels/cuda/gemm/bf16_kernel.cuh"

namespace fathom::cuda {
namespace {

template <int kWarpgroups, int kTokens>
using Few = Bf16Config<kWarpgroups, kTokens, false, false>;

}  // namespace

void launch_bf16_few(const Bf16Plan& plan, const CUtensorMap& m, const CUtensorMap& n,
                     const Bf16Work& work, const Launch& l) {
  const bool done = launch_bf16_config<Few<1, 8>>(plan, m, n, work, l) ||
                    launch_bf16_config<Few<1, 16>>(plan, m, n, work, l) ||
                    launch_bf16_config<Few<1, 32>>(plan, m, n, work, l) ||
                    launch_bf16_config<Few<1, 64>>(plan, m, n, work, l) ||
                    launch_bf16_config<Few<1, 128>>(plan, m, n, work, l) ||
                    launch_bf16_config<Few<2, 8>>(plan, m, n, work, l) ||
                    launch_bf16_config<Few<2, 16>>(plan, m, n, work, l) ||
                    launch_bf16_config<Few<2, 32>>(plan, m, n, work, l) ||
                    launch_bf16_config<Few<2, 64>>(plan, m, n, work, l) ||
                    launch_bf16_config<Few<2, 128>>(plan, m, n, work, l);
  require(done, "no bf16 kernel of this shape for few tokens");
}

}  // namespace fathom::cuda
