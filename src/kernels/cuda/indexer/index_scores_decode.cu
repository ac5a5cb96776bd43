// Instantiations of the decode form.
#include "kernels/cuda/indexer/index_scores_kernel.cuh"

namespace fathom::cuda {
namespace {

template <bool kFp8, int kHeads>
void launch(const IndexArgs& args, int grid, const CUtensorMap& keys, const CUtensorMap& queries,
            const Launch& l) {
  using S = IndexShape<kFp8, kHeads, false>;
  static_assert(index_shared_bytes<S>() <= 227 * 1024);
  launch_kernel(l, index_decode_kernel<S>, dim3(static_cast<unsigned>(grid)), dim3(S::kThreads),
                index_shared_bytes<S>(), 1, args, keys, queries);
}

template <bool kFp8>
void launch(const IndexArgs& args, int padded_heads, int grid, const CUtensorMap& keys,
            const CUtensorMap& queries, const Launch& l) {
  if (padded_heads == 64)
    launch<kFp8, 64>(args, grid, keys, queries, l);
  else if (padded_heads == 32)
    launch<kFp8, 32>(args, grid, keys, queries, l);
  else
    launch<kFp8, 8>(args, grid, keys, queries, l);
}

}  // namespace

void launch_index_decode(const IndexArgs& args, bool fp8, int padded_heads, int grid,
                         const CUtensorMap& keys, const CUtensorMap& queries, const Launch& l) {
  if (fp8)
    launch<true>(args, padded_heads, grid, keys, queries, l);
  else
    launch<false>(args, padded_heads, grid, keys, queries, l);
}

}  // namespace fathom::cuda
