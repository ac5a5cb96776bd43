#include "kernels/cuda/gemm/fp8_few.cuh"
#include "kernels/cuda/gemm/fp8_few_launch.h"

namespace fathom::cuda {
namespace {

template <int kTokens, int kGroups>
void launch(const FewArgs& args, const FewPlan& plan, const Launch& l) {
  launch_few(fp8_few_kernel<kTokens, kGroups, false>, 128 * kGroups + 32, args, plan, l);
}

template <int kGroups>
void launch_tokens(const FewArgs& args, const FewPlan& plan, const Launch& l) {
  switch (plan.tokens) {
    case 8:
      return launch<8, kGroups>(args, plan, l);
    case 16:
      return launch<16, kGroups>(args, plan, l);
    case 32:
      return launch<32, kGroups>(args, plan, l);
    case 64:
      return launch<64, kGroups>(args, plan, l);
    case 128:
      return launch<128, kGroups>(args, plan, l);
    default:
      fail_plain("few-rows FP8 product: no such tile");
  }
}

}  // namespace

void launch_few_dense(const FewArgs& args, const FewPlan& plan, const Launch& l) {
  if (plan.groups == 1) return launch_tokens<1>(args, plan, l);
  launch_tokens<2>(args, plan, l);
}

}  // namespace fathom::cuda
