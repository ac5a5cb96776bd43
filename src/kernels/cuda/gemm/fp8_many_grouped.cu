// Grouped by experts, on tiles of 192 rows: as tall as most experts of a step have rows, so that
// their weights pass through shared memory once. Measured, taller tiles are slower for more rows,
// too: an expert's last tile is then further from full.
#include "kernels/cuda/gemm/fp8_many.h"
#include "kernels/cuda/gemm/fp8_many_launch.cuh"

namespace fathom::cuda {

void fp8_grouped_many(const Fp8GroupedParams& p, const Launch& l) {
  check_many(p);
  if (p.a.rows == 0) return;
  using Config = ManyConfig<3, 1, 128, Shared::rows>;
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
