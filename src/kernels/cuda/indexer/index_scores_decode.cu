// Instantiations of the decode form.
#include "kernels/cuda/indexer/index_scores_kernel.cuh"

namespace fathom::cuda {
namespace {

template <bool kFp8, int kHeads>
void launch(const IndexArgs& args, bool pairs, int grid, const CUtensorMap& keys,
            const CUtensorMap& queries, const Launch& l) {
  auto go = [&]<class S>(S) {
    static_assert(index_shared_bytes<S>() <= 227 * 1024);
    launch_kernel(l, index_decode_kernel<S>, dim3(static_cast<unsigned>(grid)), dim3(S::kThreads),
                  index_shared_bytes<S>(), 1, args, keys, queries);
  };
  if (pairs)
    go(IndexShape<kFp8, kHeads, false, 2>{});
  else
    go(IndexShape<kFp8, kHeads, false, 1>{});
}

template <bool kFp8>
void launch(const IndexArgs& args, int padded_heads, bool pairs, int grid, const CUtensorMap& keys,
            const CUtensorMap& queries, const Launch& l) {
  if (padded_heads == 64)
    launch<kFp8, 64>(args, pairs, grid, keys, queries, l);
  else if (padded_heads == 32)
    launch<kFp8, 32>(args, pairs, grid, keys, queries, l);
  else
    launch<kFp8, 8>(args, pairs, grid, keys, queries, l);
}

}  // namespace

void launch_index_decode(const IndexArgs& args, bool fp8, int padded_heads, bool pairs, int grid,
                         const CUtensorMap& keys, const CUtensorMap& queries, const Launch& l) {
  if (fp8)
    launch<true>(args, padded_heads, pairs, grid, keys, queries, l);
  else
    launch<false>(args, padded_heads, pairs, grid, keys, queries, l);
}

}  // namespace fathom::cuda
