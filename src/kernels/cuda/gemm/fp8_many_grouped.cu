// Grouped by experts: the tallest tile, so that the weights of an expert with up to 256 rows pass
// through shared memory once.
#include "kernels/cuda/gemm/fp8_many.h"
#include "kernels/cuda/gemm/fp8_many_launch.cuh"

namespace fathom::cuda {

void fp8_grouped_many(const Fp8GroupedParams& p, const Launch& l) {
  check_many(p);
  if (p.a.rows == 0) return;
  using Config = ManyConfig<2, 128, Shared::rows>;
  ManyArgs args{};
  args.weight_scales = p.scales;
  args.scale_stride = p.k / 128;
  args.n = p.n;
  args.slices = p.k / 128;
  args.out[0] = {p.out, p.out_stride, 0, p.n, false};
  args.segments = 1;
  const int pair = 2 * Config::kColumns;
  args.schedule = {p.a.rows, (p.n + pair - 1) / pair, 0, 0, p.offsets, p.experts};
  // How many tiles there are is known on the device only; spare CTAs find none and leave.
  launch_many<Config, true>(p.a, p.codes, int64_t{p.experts} * p.n, args, l.sms / 2 * 2, l);
}

}  // namespace fathom::cuda
