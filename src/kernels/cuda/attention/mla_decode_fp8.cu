#include "kernels/cuda/attention/mla_decode_kernel.cuh"

namespace fathom::cuda::decode {

void launch_splits_fp8(const Args& a, int tokens, const Launch& l) {
  launch_splits<true>(a, tokens, l);
}

}  // namespace fathom::cuda::decode
