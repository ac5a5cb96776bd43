// The multiplying side of the FP8 kernel for many rows.
//
// The tensor cores serve all warpgroups at the same time, so that their products also end at the
// same time, and what each does between two products is not hidden by the others. Therefore only
// the promotion is left there: all that the next product needs (its stage, scales and descriptors)
// is found while the product before it runs.
#pragma once

#include "kernels/cuda/gemm/fp8_many_config.cuh"
#include "kernels/cuda/gemm/fp8_many_store.cuh"
#include "kernels/cuda/gemm/fp8_promote.h"
#include "kernels/cuda/prim/barrier.h"
#include "kernels/cuda/prim/launch.h"
#include "kernels/cuda/prim/wgmma.h"

namespace fathom::cuda {

// Arrives at a barrier of CTA `rank` of the cluster. Nothing was written that the other side would
// read, so the cluster-wide release of barrier_arrive_remote, which waits for all memory traffic
// of this warp, is not needed.
__device__ __forceinline__ void arrive_at_peer(uint64_t* bar, int rank) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(
                   cluster_address(bar, static_cast<uint32_t>(rank)))
               : "memory");
}

// Marks a stage as read by this warp (the reads of its scales are behind a fence). Its feeders may
// then refill it, also those of a peer that write into it.
template <class C>
__device__ __forceinline__ void release(ManySmem<C>& s, int stage, int lane) {
  __syncwarp();
  if constexpr (C::kCluster == 1) {
    if (lane == 0) barrier_arrive(&s.empty[stage]);
  } else {
    if (lane < C::kCluster) arrive_at_peer(&s.empty[stage], lane);
  }
}

// The low half of the descriptor of an operand; the high half is the same for all (prim/wgmma.h).
// Kept apart, so that what changes from stage to stage is one register.
__device__ __forceinline__ uint32_t descriptor_low(const void* tile) {
  return static_cast<uint32_t>(k_major_descriptor(tile));
}
__device__ __forceinline__ uint64_t descriptor_of(uint32_t low) {
  return smem_descriptor(0, 0, 1024, 128) | low;
}

// Weight scales of a block of 128 columns, one a slice: each lane holds one of 32 slices, and the
// next 32 are on their way. A load for every slice would be waited for in every slice.
struct ManyWeightScales {
  const float* from;
  float held, ahead;

  __device__ __forceinline__ void begin(const float* block, int slices, int lane) {
    from = block;
    held = load_weight(from + min(lane, slices - 1));
  }
  // Slices are asked for in order, from 0 on.
  __device__ __forceinline__ float at(int slice, int slices, int lane) {
    if (slice % 32 == 0) {
      if (slice > 0) held = ahead;
      if (slice + 32 < slices) ahead = load_weight(from + min(slice + 32 + lane, slices - 1));
    }
    return __shfl_sync(~0u, held, slice % 32);
  }
};

// One math warpgroup: its chunks of all tiles of this CTA.
template <class C, bool kGrouped>
struct ManyMath {
  static_assert(C::kGroups == 2 || C::kWaves == 1);  // where row scales of a chunk lie
  // Whether a tile may lie in two blocks of weight scales.
  static constexpr bool kTwoBlocks = 128 % C::kColumns != 0;
  // Weight scales change every 128 columns: a run of kRun columns of the tile has one scale.
  static constexpr int kRun = C::kColumns & -C::kColumns;
  using Part = float[C::kColumns / 2];  // a chunk's accumulators
  using Sums = float[C::kWaves][C::kColumns / 2];

  ManySmem<C>& s;
  const ManyArgs& args;
  ManyCursor<C> cursor;
  const int group, warp, lane;

  // Where the ring stands, and what the next products take from that stage.
  int stage = 0;
  uint32_t parity = 0;
  uint32_t row_descriptor = 0, weight_descriptor = 0;
  int scale_at = 0;            // of this thread's row r in the stage's scales
  float upper = 0, lower = 0;  // scales of rows r and r + 8
  ManyWeightScales first_block{}, second_block{};

  __device__ __forceinline__ int waves_of(const ManyTileAt& at) const {
    return (at.chunks + C::kGroups - 1 - group) / C::kGroups;
  }

  __device__ __forceinline__ void read_row_scales(int wave) {
    const float* scale = s.scales[stage][wave] + scale_at;
    upper = scale[0];
    lower = scale[8];
  }

  // Waits for the stage and takes from it what the first product needs.
  __device__ __forceinline__ void enter_stage() {
    barrier_wait(&s.full[stage], parity);
    read_row_scales(0);
    row_descriptor = descriptor_low(s.rows[stage] + group * kChunk * kSlice);
    weight_descriptor = descriptor_low(s.weights[stage]);
  }

  __device__ __forceinline__ void advance() {
    if (++stage == C::kStages) {
      stage = 0;
      parity ^= 1;
    }
  }

  // Asks for the weight scales of a tile. One past the last column (of an odd cluster) reads the
  // last block's and stores nothing.
  __device__ __forceinline__ void begin_tile(const ManyTileAt& at) {
    const int blocks = (args.n + 127) / 128, block = min(at.column / 128, blocks - 1);
    const float* scales =
        args.weight_scales + (int64_t{at.expert} * blocks + block) * args.scale_stride;
    first_block.begin(scales, args.slices, lane);
    if constexpr (kTwoBlocks)
      second_block.begin(scales + (block + 1 < blocks ? args.scale_stride : 0), args.slices, lane);
    scale_at = group / 2 * kScalePitch + group % 2 * kChunk + (at.row & 3) + warp * 16 + lane / 4;
  }

  __device__ __forceinline__ static void clear(Sums& sum) {
#pragma unroll
    for (int w = 0; w < C::kWaves; ++w)
#pragma unroll
      for (int i = 0; i < C::kColumns / 2; ++i) sum[w][i] = 0.0f;
  }

  __device__ __forceinline__ void store(const Sums& sum, const ManyTileAt& at) {
    if constexpr (kGrouped) {
      static_assert(C::kWaves == 1);
      uint8_t* staging = s.out + (group * 4 + warp) * 16 * C::kPiece * 2;
      const int row = at.row + group * kChunk + warp * 16;
      if (waves_of(at) > 0) store_rows<C>(sum[0], staging, args, at, row, lane);
    } else {
      store_boxes<C>(sum, s, args, at, waves_of(at), group, warp, lane);
      __syncwarp();  // one lane comes later; products want whole warps
    }
  }

  // The product of a chunk and a slice.
  __device__ __forceinline__ void multiply(Part& part, uint32_t a) {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k)  // 32 bytes of K: 2 in a descriptor's unit of 16
      wgmma_fp8<C::kColumns>(part, descriptor_of(a + 2 * k),
                             descriptor_of(weight_descriptor + 2 * k), k > 0);
    wgmma_commit();
  }

  // Scales of a chunk's rows r and r + 8 in the tile's first and second block of weights.
  struct Scales {
    float up_first, low_first, up_second, low_second;
  };
  __device__ __forceinline__ Scales scales_with(float first, float second) const {
    return {block_scale(upper, first), block_scale(lower, first), block_scale(upper, second),
            block_scale(lower, second)};
  }

  // `border`: columns of the tile in the first block.
  __device__ __forceinline__ static void promote_chunk(Part& sum, const Part& part,
                                                       const Scales& scales, int border) {
#pragma unroll
    for (int j = 0; j < C::kColumns / 8; ++j) {
      const bool in_second = kTwoBlocks && j * 8 / kRun * kRun >= border;
      const float up = in_second ? scales.up_second : scales.up_first;
      const float low = in_second ? scales.low_second : scales.low_first;
      float* d = &sum[j * 4];
      d[0] = promote(d[0], part[j * 4], up);
      d[1] = promote(d[1], part[j * 4 + 1], up);
      d[2] = promote(d[2], part[j * 4 + 2], low);
      d[3] = promote(d[3], part[j * 4 + 3], low);
    }
  }

  // A tile of which this warpgroup has kActive chunks.
  template <int kActive>
  __device__ __forceinline__ void multiply_tile(int border, Sums& sum) {
    enter_stage();
    for (int slice = 0; slice < args.slices; ++slice) {
      const bool last = slice + 1 == args.slices;
      const int from = stage;
      float first = 0, second = 0;
#pragma unroll
      for (int w = 0; w < kActive; ++w) {
        Part part;
        multiply(part, row_descriptor + w * (C::kGroups * kChunk * kSlice / 16));

        // under the product
        if (w == 0) {
          first = first_block.at(slice, args.slices, lane);
          if constexpr (kTwoBlocks) second = second_block.at(slice, args.slices, lane);
        }
        const Scales scales = scales_with(first, second);
        if (w + 1 < kActive) {
          read_row_scales(w + 1);
        } else {
          fence_reads_of_stage();
          advance();
          if (!last) enter_stage();
        }

        wgmma_wait<0>();
        if (w + 1 == kActive) release<C>(s, from, lane);
        promote_chunk(sum[w], part, scales, border);
      }
    }
  }

  // A tile without rows of this warpgroup: its stages are given back.
  __device__ __forceinline__ void skip_tile() {
    for (int slice = 0; slice < args.slices; ++slice) {
      barrier_wait(&s.full[stage], parity);
      release<C>(s, stage, lane);
      advance();
    }
  }

  // One slice of multiply_tile_overlapped: behind it only the product itself needs the stage.
  __device__ __forceinline__ Scales start_slice(int slice, Part& part) {
    enter_stage();
    pin_registers(part);
    multiply(part, row_descriptor);
    const float first = first_block.at(slice, args.slices, lane);
    float second = 0;
    if constexpr (kTwoBlocks) second = second_block.at(slice, args.slices, lane);
    const Scales scales = scales_with(first, second);
    fence_reads_of_stage();
    advance();
    return scales;
  }
  template <int kPending>
  __device__ __forceinline__ void finish_slice(int border, Part& sum, Part& part,
                                               const Scales& scales, int& from) {
    wgmma_wait<kPending>();
    pin_registers(part);
    release<C>(s, from, lane);
    if (++from == C::kStages) from = 0;
    promote_chunk(sum, part, scales, border);
  }

  // multiply_tile for a warpgroup that has one chunk and registers for two slices of it: one is
  // multiplied while the other is promoted.
  __device__ __forceinline__ void multiply_tile_overlapped(int border, Part& sum) {
    Part even, odd;
    int from = stage, slice = 1;
    Scales even_scales = start_slice(0, even), odd_scales;
    for (; slice + 1 < args.slices; slice += 2) {
      odd_scales = start_slice(slice, odd);
      finish_slice<1>(border, sum, even, even_scales, from);
      even_scales = start_slice(slice + 1, even);
      finish_slice<1>(border, sum, odd, odd_scales, from);
    }
    if (slice < args.slices) {
      odd_scales = start_slice(slice, odd);
      finish_slice<1>(border, sum, even, even_scales, from);
      finish_slice<0>(border, sum, odd, odd_scales, from);
    } else {
      finish_slice<0>(border, sum, even, even_scales, from);
    }
  }

  __device__ __forceinline__ void run() {
    static_assert(C::kWaves <= 2);
    ManyTileAt at;
    if (!cursor.next(args.schedule, at)) return;
    begin_tile(at);
    for (bool more = true; more;) {
      Sums sum;
      clear(sum);
      const int waves = waves_of(at), border = 128 - at.column % 128;
      if (waves == C::kWaves) {
        if constexpr (C::kOverlapped)
          multiply_tile_overlapped(border, sum[0]);
        else
          multiply_tile<C::kWaves>(border, sum);
      } else if (waves == 0) {
        skip_tile();
      } else {
        multiply_tile<1>(border, sum);
      }
      ManyTileAt next{};
      more = cursor.next(args.schedule, next);
      if (more) begin_tile(next);  // its scales arrive while this tile is stored
      store(sum, at);
      at = next;
    }
    // Shared memory stays until the copy engine has read it.
    if (lane == 0) store_wait_read<0>();
    __syncwarp();
  }
};

}  // namespace fathom::cuda
