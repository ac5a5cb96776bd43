// Instantiations of the prefill form.
#include "kernels/cuda/indexer/index_scores_kernel.cuh"

namespace fathom::cuda {
namespace {

template <bool kFp8, int kHeads>
void launch(const IndexArgs& args, const IndexPrefillPlan& plan, int grid, const CUtensorMap& keys,
            const CUtensorMap& queries, const Launch& l) {
  using S = IndexShape<kFp8, kHeads, true>;
  static_assert(index_shared_bytes<S>() <= 227 * 1024);
  launch_kernel(l, index_prefill_kernel<S>, dim3(static_cast<unsigned>(grid)), dim3(S::kThreads),
                index_shared_bytes<S>(), 1, args, plan, keys, queries);
}

template <bool kFp8>
void launch(const IndexArgs& args, const IndexPrefillPlan& plan, int padded_heads, int grid,
            const CUtensorMap& keys, const CUtensorMap& queries, const Launch& l) {
  if (padded_heads == 64)
    launch<kFp8, 64>(args, plan, grid, keys, queries, l);
  else if (padded_heads == 32)
    launch<kFp8, 32>(args, plan, grid, keys, queries, l);
  else
    launch<kFp8, 8>(args, plan, grid, keys, queries, l);
}

}  // namespace

void launch_index_prefill(const IndexArgs& args, const IndexPrefillPlan& plan, bool fp8,
                          int padded_heads, int grid, const CUtensorMap& keys,
                          const CUtensorMap& queries, const Launch& l) {
  if (fp8)
    launch<true>(args, plan, padded_heads, grid, keys, queries, l);
  else
    launch<false>(args, plan, padded_heads, grid, keys, queries, l);
}

}  // namespace fathom::cuda
