#include "kernels/cuda/gemm/fp8_many_launch.cuh"

namespace fathom::cuda {

void launch_m128n96(const Fp8GemmParams& p, const ManyArgs& args, int ctas, const Launch& l) {
  launch_many<ManyConfig<2, 1, 96, Shared::nothing>, false>(p.a, p.b.codes, p.b.n, args, ctas, l);
}

}  // namespace fathom::cuda
