#include "kernels/cuda/gemm/fp8_few.cuh"
#include "kernels/cuda/gemm/fp8_few_launch.h"

namespace fathom::cuda {
namespace {

template <int kTokens, int kGroups>
void launch(const FewArgs& args, const FewPlan& plan, const Launch& l) {
  launch_few(fp8_few_kernel<kTokens, kGroups, false>, 128 * kGroups + 32, args, plan, l);
}

}  // namespace

void launch_few_dense(const FewArgs& args, const FewPlan& plan, const Launch& l) {
  const bool two = plan.groups == 2;
  switch (plan.tokens) {
    case 8:
      return two ? launch<8, 2>(args, plan, l) : launch<8, 1>(args, plan, l);
    case 16:
      return two ? launch<16, 2>(args, plan, l) : launch<16, 1>(args, plan, l);
    case 32:
      return two ? launch<32, 2>(args, plan, l) : launch<32, 1>(args, plan, l);
    case 64:
      return two ? launch<64, 2>(args, plan, l) : launch<64, 1>(args, plan, l);
    case 128:
      require(!two, "few-rows FP8 product: 128 tokens take one warpgroup");
      return launch<128, 1>(args, plan, l);
    default:
      fail_plain("few-rows FP8 product: no such tile");
  }
}

}  // namespace fathom::cuda
