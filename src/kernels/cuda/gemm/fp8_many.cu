#include "kernels/cuda/gemm/fp8_many.h"

#include "kernels/cuda/gemm/fp8_many_launch.cuh"

namespace fathom::cuda {

void fp8_gemm_many_as(const ManyPlan& plan, const Fp8GemmParams& p, const Launch& l) {
  check_many(p);
  if (p.a.rows == 0) return;
  ManyArgs args{};
  args.weight_scales = p.b.scales;
  args.scale_stride = p.b.scale_stride;
  args.n = p.b.n;
  args.slices = p.b.k / 128;
  for (int i = 0; i < p.segments; ++i) args.out[i] = p.out[i];
  args.segments = p.segments;
  args.schedule = {p.a.rows, plan.column_units, plan.row_units, plan.group, nullptr, 1};
  switch (plan.tile) {
    case ManyTile::m256n128:
      return launch_m256n128(p, args, plan.ctas, l);
    case ManyTile::m192n128:
      return launch_m192n128(p, args, plan.ctas, l);
    case ManyTile::m128n192:
      return launch_m128n192(p, args, plan.ctas, l);
    case ManyTile::m128n128:
      return launch_m128n128(p, args, plan.ctas, l);
    case ManyTile::m128n96:
      return launch_m128n96(p, args, plan.ctas, l);
    case ManyTile::m128n64:
      return launch_m128n64(p, args, plan.ctas, l);
    case ManyTile::m64n64:
      return launch_m64n64(p, args, plan.ctas, l);
    case ManyTile::m64n32:
      return launch_m64n32(p, args, plan.ctas, l);
  }
}

void fp8_gemm_many(const Fp8GemmParams& p, const Launch& l) {
  fp8_gemm_many_as(plan_many(p.a.rows, p.b.n, p.b.k, l.sms), p, l);
}

}  // namespace fathom::cuda
