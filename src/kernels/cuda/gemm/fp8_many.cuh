// FP8 GEMM of many rows: out[r, c] = sum_k a[r, k] b[c, k], dense or grouped by experts.
//
// Numerics
//   in        e4m3 codes; scales 1x128 (rows) and 128x128 (weights), any float32
//   partial   128 products along k, by four wgmmas of k = 32 that start from zero
//   promotion sum = fma(partial, row scale * weight scale, sum), float32, k ascending
//   out       rounded once to bf16, or float32 as it is
//   The order does not depend on tile, rows or neighbours: a row has the same bits in any batch.
//   Tile rows past the end (of the matrix or of an expert) are computed on zeros or on the next
//   expert's rows, whatever they hold, and not stored.
//
// One persistent CTA a multiprocessor: two or three warpgroups multiply, the warps of one more feed
// them through a ring of stages. A stage holds one slice of K = 128, that is one scale group. The
// rows of a tile are chunks of 64, dealt to the warpgroups in turn.
#pragma once

#include "kernels/cuda/gemm/fp8_many_feed.cuh"
#include "kernels/cuda/gemm/fp8_many_math.cuh"
#include "kernels/cuda/prim/launch.h"

namespace fathom::cuda {

// Waits by role: no kernel writes the weights of a dense product, so that they are fetched while
// the kernel before still runs. All other warps wait.
template <class C, bool kGrouped>
__global__ __launch_bounds__(C::kThreads,
                             1) void fp8_many_kernel(const __grid_constant__ CUtensorMap rows,
                                                     const __grid_constant__ CUtensorMap tail,
                                                     const __grid_constant__ CUtensorMap weights,
                                                     const __grid_constant__ CUtensorMap scales,
                                                     const __grid_constant__ ManyArgs args) {
  extern __shared__ __align__(1024) uint8_t raw[];
  ManySmem<C>& s = *reinterpret_cast<ManySmem<C>*>(raw);
  int* experts = reinterpret_cast<int*>(raw + sizeof(ManySmem<C>));
  const int warp = threadIdx.x / 32;

  // phase 1: barriers
  if (threadIdx.x == 0) {
    prefetch_map(&rows);
    if (args.tail_rows > 0) prefetch_map(&tail);
    prefetch_map(&weights);
    prefetch_map(&scales);
    for (int i = 0; i < C::kStages; ++i) {
      barrier_init(&s.full[i], kFeeders);
      barrier_init(&s.empty[i], C::kGroups * 4 * C::kCluster);  // a warp each
    }
    barrier_init_fence();
  }
  if constexpr (kGrouped) {
    pdl_wait();
    if (warp == 0) list_expert_tiles<C>(args.schedule, experts);
  }
  if constexpr (C::kCluster == 1)
    __syncthreads();
  else
    cluster_sync();

  // phase 2: roles
  const ManyCursor<C> cursor(args.schedule, kGrouped ? experts : nullptr);
  constexpr int kFeederWarp = C::kGroups * 4;
  if (warp >= kFeederWarp) {
    if constexpr (C::kMoveRegisters) registers_decrease<C::kFeederRegisters>();
    if (!kGrouped && warp != kFeederWarp) pdl_wait();
    if (threadIdx.x % 32 == 0) {
      if (warp == kFeederWarp) produce<C, Feeder::weights>(s, &weights, &tail, args, cursor);
      if (warp == kFeederWarp + 1) produce<C, Feeder::even_chunks>(s, &rows, &tail, args, cursor);
      if (warp == kFeederWarp + 2) produce<C, Feeder::odd_chunks>(s, &rows, &tail, args, cursor);
      if (warp == kFeederWarp + 3) produce<C, Feeder::scales>(s, &scales, &tail, args, cursor);
    }
    __syncwarp();
  } else {
    if constexpr (C::kMoveRegisters) registers_increase<C::kMathRegisters>();
    if constexpr (!kGrouped) pdl_wait();
    // Read from one lane, so that the compiler knows it equal in all and keeps what follows from it
    // in uniform registers.
    const int group = __shfl_sync(~0u, warp / 4, 0);
    ManyMath<C, kGrouped>{s, args, cursor, group, warp % 4, static_cast<int>(threadIdx.x % 32)}
        .run();
  }

  // phase 3: no CTA ends while its peer may still arrive at its barriers
  if constexpr (!kGrouped) pdl_wait();  // of the weights' feeder
  pdl_trigger();
  if constexpr (C::kCluster > 1) cluster_sync();
}

}  // namespace fathom::cuda
