#include "kernels/cuda/gemm/fp8_few.h"

#include "base/check.h"
#include "base/error.h"
#include "kernels/cuda/gemm/fp8_few_launch.h"

namespace fathom::cuda {
namespace {

constexpr int kSlice = FewLayout::kSlice;

// What dense and grouped products have in common.
FewArgs common_args(const Fp8Rows& a, const uint8_t* codes, int64_t weight_rows, int n, int k,
                    const FewPlan& plan) {
  FewArgs args = {};
  args.weights = make_matrix_map(codes, MapType::u8, static_cast<uint64_t>(weight_rows),
                                 static_cast<uint64_t>(k), static_cast<uint64_t>(k),
                                 static_cast<uint32_t>(64 * plan.groups), kSlice);
  args.n = n;
  args.slices = k / kSlice;
  args.rows_total = a.rows;
  args.splits = plan.splits;
  args.stages = plan.stages;
  return args;
}

void map_rows(FewArgs& args, const Fp8Rows& a, int box_rows, int scale_box) {
  args.box_rows = box_rows;
  args.scale_box = scale_box;
  args.rows = make_matrix_map(a.codes, MapType::u8, static_cast<uint64_t>(a.rows),
                              static_cast<uint64_t>(a.k), static_cast<uint64_t>(a.k),
                              static_cast<uint32_t>(box_rows), kSlice);
  args.scales = make_matrix_map(a.scales, MapType::f32, static_cast<uint64_t>(args.slices),
                                static_cast<uint64_t>(a.scale_stride),
                                static_cast<uint64_t>(a.scale_stride) * 4, 1,
                                static_cast<uint32_t>(scale_box), 0);
}

}  // namespace

void fp8_gemm_few(const Fp8GemmParams& p, const FewPlan& plan, const Launch& l) {
  FATHOM_CHECK(p.a.rows >= 1 && p.a.rows <= plan.tokens, "{} rows in a tile of {}", p.a.rows,
               plan.tokens);
  FATHOM_CHECK(plan.ctas == (p.b.n + 64 * plan.groups - 1) / (64 * plan.groups) * plan.splits,
               "{} CTAs for n = {}", plan.ctas, p.b.n);
  FewArgs args = common_args(p.a, p.b.codes, p.b.n, p.b.n, p.b.k, plan);
  // The box has exactly as many rows as exist: the copy engine is slow to fill missing rows with
  // zeros.
  map_rows(args, p.a, p.a.rows, (p.a.rows + 3) / 4 * 4);
  args.weight_scales = p.b.scales;
  for (int s = 0; s < p.segments; ++s) args.out[s] = p.out[s];
  args.segments = p.segments;
  launch_few_dense(args, plan, l);
}

void fp8_grouped_few(const Fp8GroupedParams& p, const FewPlan& plan, const Launch& l) {
  if (p.experts > kFewExperts)
    fail("{} experts: the grouped FP8 product takes at most {}", p.experts, kFewExperts);
  FATHOM_CHECK(plan.splits == 1, "a grouped product in {} parts", plan.splits);
  FewArgs args = common_args(p.a, p.codes, static_cast<int64_t>(p.experts) * p.n, p.n, p.k, plan);
  map_rows(args, p.a, 8, plan.tokens + 4);
  args.weight_scales = p.scales;
  args.offsets = p.offsets;
  args.experts = p.experts;
  args.out[0] = {p.out, p.out_stride, 0, p.n, false};
  args.segments = 1;
  launch_few_grouped(args, plan, l);
}

}  // namespace fathom::cuda
