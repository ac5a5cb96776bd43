#include "kernels/cuda/gemm/fp8_many_launch.cuh"

namespace fathom::cuda {

void launch_m64n32(const Fp8GemmParams& p, const ManyArgs& args, int ctas, const Launch& l) {
  launch_many<ManyConfig<1, 1, 32, Shared::nothing>, false>(p.a, p.b.codes, p.b.n, args, ctas, l);
}

}  // namespace fathom::cuda
