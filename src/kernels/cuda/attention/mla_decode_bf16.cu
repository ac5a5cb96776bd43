#include "kernels/cuda/attention/mla_decode_kernel.cuh"

namespace fathom::cuda::decode {

void launch_splits_bf16(const Args& a, int tokens, const Launch& l) {
  launch_splits<false>(a, tokens, l);
}

}  // namespace fathom::cuda::decode
