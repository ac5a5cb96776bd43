// The feeding side of the FP8 kernel for many rows.
#pragma once

#include "kernels/cuda/gemm/fp8_many_config.cuh"
#include "kernels/cuda/prim/barrier.h"
#include "kernels/cuda/prim/tma.h"

namespace fathom::cuda {

// Feeds the ring: one thread a feeder. Order of stages: tiles as scheduled, k ascending. `tail`:
// the boxes of a chunk that has no more than args.tail_rows rows; the copy engine is slow to fill
// missing rows with zeros, and what else lies there changes no row that is stored.
template <class C, Feeder kFeeder>
__device__ __forceinline__ void produce(ManySmem<C>& s, const CUtensorMap* map,
                                        const CUtensorMap* tail, const ManyArgs& args,
                                        ManyCursor<C> cursor) {
  const int rank = C::kCluster == 1 ? 0 : static_cast<int>(cluster_rank());
  constexpr int kFirst = kFeeder == Feeder::odd_chunks ? 1 : 0;
  int stage = 0;
  uint32_t parity = 1;  // a fresh ring is empty
  for (ManyTileAt at; cursor.next(args.schedule, at);) {
    const int pairs = (at.chunks + 1) / 2;
    int bytes = C::kWeightBytes;
    if constexpr (kFeeder == Feeder::even_chunks) bytes = pairs * kChunk * kSlice;
    if constexpr (kFeeder == Feeder::odd_chunks) bytes = at.chunks / 2 * kChunk * kSlice;
    if constexpr (kFeeder == Feeder::scales) bytes = pairs * kScaleBox * 4;
    // The chunk that the tail's boxes bring, -1: none.
    const int ragged =
        args.tail_rows > 0 && at.row + at.chunks * kChunk > args.schedule.rows ? at.chunks - 1 : -1;
    if (ragged >= 0 && ragged % 2 == kFirst &&
        (kFeeder == Feeder::even_chunks || kFeeder == Feeder::odd_chunks))
      bytes -= (kChunk - args.tail_rows) * kSlice;
    const int half = C::kShared == Shared::weights ? rank * C::kWeightBox : 0;
    const int first_weight = at.expert * args.n + at.column + half;
    for (int slice = 0; slice < args.slices; ++slice) {
      uint64_t* full = &s.full[stage];
      barrier_wait(&s.empty[stage], parity);
      barrier_arrive_expect(full, static_cast<uint32_t>(bytes));
      const int k = slice * kSlice;
      if constexpr (kFeeder == Feeder::weights) {
        if constexpr (C::kShared == Shared::weights)
          load_box_multicast(s.weights[stage] + rank * C::kWeightBox * kSlice, map, full, 3, k,
                             first_weight);
        else
          load_box(s.weights[stage], map, full, k, first_weight);
      } else if constexpr (kFeeder == Feeder::scales) {
#pragma unroll
        for (int pair = 0; pair < C::kChunkPairs; ++pair)
          if (pair < pairs)
            load_box(s.scales[stage][pair], map, full, (at.row & ~3) + pair * 2 * kChunk, slice);
      } else {
#pragma unroll
        for (int chunk = kFirst; chunk < C::kChunks; chunk += 2) {
          if (chunk >= at.chunks) break;
          uint8_t* to = s.rows[stage] + chunk * kChunk * kSlice;
          const int row = at.row + chunk * kChunk;
          if constexpr (C::kShared == Shared::rows)
            load_box_multicast(to + rank * C::kRowBox * kSlice, map, full, 3, k,
                               row + rank * C::kRowBox);
          else
            load_box(to, chunk == ragged ? tail : map, full, k, row);
        }
      }
      if (++stage == C::kStages) {
        stage = 0;
        parity ^= 1;
      }
    }
  }
}

}  // namespace fathom::cuda
