#include "kernels/cuda/gemm/fp8_few.cuh"
#include "kernels/cuda/gemm/fp8_few_launch.h"

namespace fathom::cuda {
namespace {

template <int kTokens>
void launch(const FewArgs& args, const FewPlan& plan, const Launch& l) {
  launch_few(fp8_few_kernel<kTokens, 1, true>, 128 + 32, args, plan, l);
}

}  // namespace

void launch_few_grouped(const FewArgs& args, const FewPlan& plan, const Launch& l) {
  require(plan.groups == 1, "grouped few-rows FP8 product: tiles have 64 weight rows");
  switch (plan.tokens) {
    case 8:
      return launch<8>(args, plan, l);
    case 16:
      return launch<16>(args, plan, l);
    case 32:
      return launch<32>(args, plan, l);
    case 64:
      return launch<64>(args, plan, l);
    case 128:
      return launch<128>(args, plan, l);
    default:
      fail_plain("grouped few-rows FP8 product: no such tile");
  }
}

}  // namespace fathom::cuda
