// Checks and the choice between the few-rows kernel (weights read once, k split) and the many-rows
// kernel (limited by the tensor cores).
#include "kernels/cuda/gemm/fp8_gemm.h"

#include "base/error.h"
#include "kernels/cuda/gemm/fp8_few.h"
#include "kernels/cuda/gemm/fp8_many.h"

namespace fathom::cuda {
namespace {

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

void check_operands(const Fp8Rows& a, const uint8_t* codes, int n, int k) {
  if (a.k != k) fail("FP8 product: activations have k = {}, weights {}", a.k, k);
  if (k <= 0 || k % 128 != 0) fail("FP8 product: k = {} is not a multiple of 128", k);
  if (n <= 0 || n % 8 != 0) fail("FP8 product: n = {} is not a multiple of 8", n);
  if (a.scale_stride < a.rows || a.scale_stride % 4 != 0)
    fail("FP8 product: scale stride {} for {} rows: wanted at least as many, a multiple of 4",
         a.scale_stride, a.rows);
  if (!aligned(a.codes) || !aligned(a.scales) || !aligned(codes))
    fail("FP8 product: operands are not at multiples of 16 bytes");
}

void check_out(const OutSegment& s) {
  if (!aligned(s.data) || s.stride % 8 != 0)
    fail("FP8 product: output at {} with stride {} is not in steps of 16 bytes", s.data, s.stride);
}

}  // namespace

void fp8_gemm(const Fp8GemmParams& p, const Launch& l) {
  if (p.a.rows == 0) return;
  check_operands(p.a, p.b.codes, p.b.n, p.b.k);
  if (p.b.scale_stride != p.b.k / 128)
    fail("FP8 product: weight scales have stride {}, wanted {}", p.b.scale_stride, p.b.k / 128);
  if (p.segments < 1 || p.segments > kMaxSegments)
    fail("FP8 product: {} output segments, wanted 1 to {}", p.segments, kMaxSegments);
  int n = 0;
  for (int s = 0; s < p.segments; ++s) {
    const OutSegment& out = p.out[s];
    check_out(out);
    if (out.n_begin != n || out.n_end <= n || (out.n_end % 64 != 0 && out.n_end != p.b.n))
      fail(
          "FP8 product: segment {} is columns [{}, {}), wanted to start at {} and end at a "
          "multiple "
          "of 64",
          s, out.n_begin, out.n_end, n);
    n = out.n_end;
  }
  if (n != p.b.n) fail("FP8 product: segments end at column {} of {}", n, p.b.n);

  if (dense_is_few(p.a.rows, p.b.n))
    fp8_gemm_few(p, plan_few_dense(p.a.rows, p.b.n, p.b.k, l.sms, l.batch_invariant), l);
  else
    fp8_gemm_many(p, l);
}

void fp8_grouped_gemm(const Fp8GroupedParams& p, const Launch& l) {
  if (p.a.rows == 0 || p.experts == 0) return;
  check_operands(p.a, p.codes, p.n, p.k);
  check_out({p.out, p.out_stride, 0, p.n, false});
  if (p.tokens <= 0) fail("grouped FP8 product: {} tokens", p.tokens);
  if (grouped_is_few(p.a.rows, p.tokens, p.experts))
    fp8_grouped_few(p, plan_few_grouped(p.a.rows, p.tokens, p.experts, p.n, l.sms), l);
  else
    fp8_grouped_many(p, l);
}

}  // namespace fathom::cuda
