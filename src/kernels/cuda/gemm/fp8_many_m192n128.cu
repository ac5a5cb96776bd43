#include "kernels/cuda/gemm/fp8_many_launch.cuh"

namespace fathom::cuda {

void launch_m192n128(const Fp8GemmParams& p, const ManyArgs& args, int ctas, const Launch& l) {
  launch_many<ManyConfig<3, 1, 128, Shared::rows>, false>(p.a, p.b.codes, p.b.n, args, ctas, l);
}

}  // namespace fathom::cuda
