// Instantiations for the experts' ragged rows.
#include "kernels/cuda/gemm/bf16_kernel.cuh"

namespace fathom::cuda {
namespace {

template <int kRows, bool kTokensM>
using Grouped = Bf16Config<2, kRows, kTokensM, true>;

}  // namespace

void launch_bf16_grouped(const Bf16Plan& plan, const CUtensorMap& m, const CUtensorMap& n,
                         const Bf16Work& work, const Launch& l) {
  const bool done = launch_bf16_config<Grouped<16, false>>(plan, m, n, work, l) ||
                    launch_bf16_config<Grouped<64, false>>(plan, m, n, work, l) ||
                    launch_bf16_config<Grouped<256, true>>(plan, m, n, work, l);
  require(done, "no grouped bf16 kernel of this shape");
}

}  // namespace fathom::cuda
