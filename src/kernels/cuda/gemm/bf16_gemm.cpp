// Host side of the bf16 products: checks, tensor maps, the launch.
#include "kernels/cuda/gemm/bf16_gemm.h"

#include <algorithm>

#include "base/check.h"
#include "base/rounding.h"
#include "kernels/cuda/gemm/bf16_work.h"
#include "kernels/cuda/prim/tma.h"
#include "numerics/fp8.h"

namespace fathom::cuda {
namespace {

// A map of [count][rows, k] bf16 values in boxes of at most `box_rows` x 64. A box never exceeds
// the tensor: rows that the copy engine fills with zeros take longer than rows left as they are in
// shared memory, on which no stored result depends.
CUtensorMap operand_map(const Bf16* base, int64_t rows, int64_t k, int64_t stride, int64_t count,
                        int64_t batch_stride, int box_rows) {
  FATHOM_CHECK(reinterpret_cast<uintptr_t>(base) % 16 == 0, "operand at {}",
               static_cast<const void*>(base));
  FATHOM_CHECK(stride >= k && stride % 8 == 0 && (count == 1 || batch_stride % 8 == 0),
               "strides {} and {} of rows of {}", stride, batch_stride, k);
  MapShape shape;
  shape.base = base;
  shape.type = MapType::bf16;
  shape.rank = 3;
  shape.dims[0] = static_cast<uint64_t>(k);
  shape.dims[1] = static_cast<uint64_t>(rows);
  shape.dims[2] = static_cast<uint64_t>(count);
  shape.strides[0] = static_cast<uint64_t>(stride) * 2;
  shape.strides[1] = static_cast<uint64_t>(count > 1 ? batch_stride : stride * rows) * 2;
  shape.box[0] = kBf16SliceK;
  shape.box[1] = static_cast<uint32_t>(box_rows);
  return make_tensor_map(shape);
}

void launch(const Bf16Plan& plan, const CUtensorMap& tokens, const CUtensorMap& weights,
            const Bf16Work& work, const Launch& l) {
  const CUtensorMap& m = plan.shape.tokens_m ? tokens : weights;
  const CUtensorMap& n = plan.shape.tokens_m ? weights : tokens;
  if (plan.shape.grouped)
    launch_bf16_grouped(plan, m, n, work, l);
  else if (plan.shape.tokens_m)
    launch_bf16_many(plan, m, n, work, l);
  else
    launch_bf16_few(plan, m, n, work, l);
}

Bf16Problem problem_of(const Bf16GemmParams& p) {
  return {.rows = p.rows, .n = p.n, .k = p.k, .batch = p.batch};
}
bool writes_codes(const Bf16GemmParams& p, const Bf16Plan& plan) {
  return p.n == kFp8Block && plan.splits == 1 && bf16_codes_shape(plan.shape);
}
Bf16Problem problem_of(const Bf16GroupedParams& p) {
  return {.rows = p.max_rows, .n = p.n, .k = p.k, .experts = p.experts};
}

}  // namespace

void bf16_gemm_with(const Bf16GemmParams& p, const Bf16Plan& plan, const Launch& l) {
  FATHOM_CHECK(p.rows >= 1 && p.n >= 1 && p.batch >= 1 && p.k >= 8 && p.k % 8 == 0,
               "product of {} x {} x {}, batch {}", p.rows, p.n, p.k, p.batch);
  FATHOM_CHECK(p.segments >= (p.coded.codes ? 0 : 1) && p.segments <= 4, "{} output segments",
               p.segments);
  FATHOM_CHECK(!p.coded.codes || (writes_codes(p, plan) && p.coded.stride % 16 == 0 &&
                                  p.coded.scale_stride >= p.rows),
               "codes of rows of {}, {} and {} apart", p.n, p.coded.stride, p.coded.scale_stride);
  for (int i = 0; i < p.segments; ++i)
    FATHOM_CHECK(p.out[i].n_begin == (i == 0 ? 0 : p.out[i - 1].n_end) &&
                     p.out[i].n_end > p.out[i].n_begin && p.out[i].n_end <= p.n,
                 "output segment {} has columns {} to {} of {}", i, p.out[i].n_begin,
                 p.out[i].n_end, p.n);
  const Bf16Shape& s = plan.shape;
  Bf16Work work{};
  std::copy_n(p.out, p.segments, work.out);
  work.coded = p.coded;
  work.out_batch_stride = p.out_batch_stride;
  work.segments = p.segments;
  work.rows = p.rows;
  work.n = p.n;
  work.slices = ceil_div(p.k, kBf16SliceK);
  work.batch = p.batch;
  work.token_tiles = ceil_div(p.rows, s.token_rows());
  work.weight_tiles = ceil_div(p.n, s.weight_rows());
  work.stages = plan.stages;
  const int token_box = std::min(p.rows, s.token_rows());
  const int weight_box = std::min(p.n, s.weight_rows());
  work.stage_bytes = (token_box + weight_box) * 128;
  launch(plan, operand_map(p.a, p.rows, p.k, p.a_stride, p.batch, p.a_batch_stride, token_box),
         operand_map(p.b, p.n, p.k, p.k, p.batch, p.b_batch_stride, weight_box), work, l);
}

void bf16_gemm(const Bf16GemmParams& p, const Launch& l) {
  bf16_gemm_with(p, plan_bf16(problem_of(p), l.sms, l.batch_invariant), l);
}

bool bf16_writes_codes(const Bf16GemmParams& p, const Launch& l) {
  return writes_codes(p, plan_bf16(problem_of(p), l.sms, l.batch_invariant));
}

size_t bf16_gemm_workspace(const Bf16GemmParams&) { return 0; }

void bf16_grouped_gemm_with(const Bf16GroupedParams& p, const Bf16Plan& plan, const Launch& l) {
  FATHOM_CHECK(p.max_rows >= 1 && p.n >= 1 && p.k >= 8 && p.k % 8 == 0 && p.experts >= 1 &&
                   p.experts <= kBf16MaxExperts,
               "grouped product of {} x {} x {}, {} experts", p.max_rows, p.n, p.k, p.experts);
  const Bf16Shape& s = plan.shape;
  Bf16Work work{};
  work.out[0] = {
      .data = p.out, .stride = p.out_stride, .n_begin = 0, .n_end = p.n, .f32 = p.out_f32};
  work.segments = 1;
  work.offsets = p.offsets;
  work.rows = p.max_rows;
  work.n = p.n;
  work.slices = ceil_div(p.k, kBf16SliceK);
  work.batch = p.experts;
  work.weight_tiles = ceil_div(p.n, s.weight_rows());
  work.stages = plan.stages;
  const int token_box = std::min(p.max_rows, s.token_rows());
  const int weight_box = std::min(p.n, s.weight_rows());
  work.stage_bytes = (token_box + weight_box) * 128;
  launch(plan, operand_map(p.a, p.max_rows, p.k, p.a_stride, 1, 0, token_box),
         operand_map(p.b, p.n, p.k, p.k, p.experts, int64_t{p.n} * p.k, weight_box), work, l);
}

void bf16_grouped_gemm(const Bf16GroupedParams& p, const Launch& l) {
  bf16_grouped_gemm_with(p, plan_bf16(problem_of(p), l.sms, l.batch_invariant), l);
}

}  // namespace fathom::cuda
