// How much memory CudaOps takes, part of every build: memory is planned on machines without a GPU,
// too, for machines that have one.
#include <algorithm>

#include "base/error.h"
#include "kernels/cuda/attention/workspace.h"
#include "kernels/cuda/cuda_ops_plan.h"
#include "kernels/cuda/gemm/workspace.h"
#include "kernels/cuda/moe/workspace.h"
#include "kernels/gpu.h"

namespace fathom::cuda {

OpsMemory plan_memory(Numerics numerics, const Workload& w, int sms) {
  OpsMemory m;
  const int64_t rows = int64_t{w.step_tokens} * std::max(w.experts_per_token, 1);
  m.inputs =
      round_up(plan_staging(w.step_tokens, step_sequences(w), static_cast<int>(max_pages(w))).bytes,
               kScratchAlign);
  if (numerics == Numerics::fp8) m.coded = coded_bytes(w.step_tokens, widest_input(w));
  m.permutation = round_up((w.experts + 1) * 4, kScratchAlign) + 2 * round_up(rows * 4, 256);
  int64_t workspace =
      static_cast<int64_t>(fp8_gemm_workspace(static_cast<int>(rows), std::max(w.experts, 1)));
  auto need = [&](size_t bytes) { workspace = std::max(workspace, static_cast<int64_t>(bytes)); };
  for (int tile : {kDecodeTile, kPrefillTile})
    need(mla_decode_workspace(std::min(w.step_tokens, tile), w.heads, w.index_topk, w.context, sms,
                              w.batch_invariant && tile == kDecodeTile));
  need(mla_prefill_workspace(w.context, /*fp8=*/true));
  if (w.experts > 0) need(permute_workspace(w.step_tokens, w.experts_per_token, w.experts));
  m.workspace = round_up(workspace, kScratchAlign);
  m.scratch =
      round_up(std::max(scratch_bytes(numerics, w),
                        static_cast<int64_t>(mha_prefill_workspace(w.step_tokens, w.context, 1))),
               kScratchAlign);
  return m;
}

void check_workload(Numerics numerics, const Workload& w) {
  if (numerics == Numerics::exact)
    fail("exact numerics run on the CPU only: use --device cpu, or bf16 or fp8 on the GPU");
  using K = KernelDims;
  bool dims = w.latent == K::kLatent && w.rope == K::kRope && w.nope == K::kNope &&
              w.value == K::kValue && (w.index_heads == 0 || w.index_dim == K::kIndex);
  if (!dims)
    fail(
        "the GPU kernels are built for latent {}, rope {}, nope {}, value {} and index {} values;"
        " this model has {}, {}, {}, {} and {}: use --device cpu",
        K::kLatent, K::kRope, K::kNope, K::kValue, K::kIndex, w.latent, w.rope, w.nope, w.value,
        w.index_dim);
  FATHOM_CHECK(w.step_tokens > 0 && w.context > 0, "steps of {} tokens, contexts of {}",
               w.step_tokens, w.context);
}

}  // namespace fathom::cuda

namespace fathom {

size_t cuda_ops_bytes(Numerics numerics, const Workload& workload) {
  cuda::check_workload(numerics, workload);
  return static_cast<size_t>(cuda::plan_memory(numerics, workload, cuda::kDefaultSms).total());
}

int64_t gpu_workspace_bytes(Numerics numerics, const Workload& workload) {
  return static_cast<int64_t>(cuda_ops_bytes(numerics, workload));
}

}  // namespace fathom
