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
// One persistent CTA a multiprocessor: two warpgroups multiply, the warps of a third feed them
// through a ring of stages. A stage holds one slice of K = 128, that is one scale group. The rows
// of a tile are chunks of 64; warpgroup w takes chunks w, w + 2, one after the other, so that one
// warpgroup's promotion on the CUDA cores runs under the other's wgmmas.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/gemm/fp8_many_plan.h"
#include "kernels/cuda/gemm/fp8_many_schedule.cuh"
#include "kernels/cuda/gemm/fp8_promote.h"
#include "kernels/cuda/prim/barrier.h"
#include "kernels/cuda/prim/launch.h"
#include "kernels/cuda/prim/tma.h"
#include "kernels/cuda/prim/wgmma.h"

namespace fathom::cuda {

inline constexpr int kManyThreads = 384;
inline constexpr int kChunk = 64;   // rows of one wgmma
inline constexpr int kSlice = 128;  // bytes of K a stage holds
inline constexpr int kPiece = 64;   // columns that a warp stores at a time
inline constexpr int kSmemLimit = 232448;

// Row scales of two chunks. The copy engine takes an innermost coordinate of multiples of 16 bytes
// only, and an expert may begin at any row: a box begins at the multiple of 4 before it, and is
// longer.
inline constexpr int kScaleBox = 2 * kChunk + 4;
inline constexpr int kScalePitch = 160;  // boxes land at multiples of 128 bytes

// A thread takes longer to issue the copies of a stage than the copies take, so four warps share
// the work. Each announces at a stage's barrier the bytes that it brings.
enum class Feeder : uint8_t { weights, even_chunks, odd_chunks, scales };
inline constexpr int kFeeders = 4;

template <int kWaves_, int kColumns_, Shared kShared_>
struct ManyConfig {
  static constexpr int kWaves = kWaves_;      // chunks of a warpgroup
  static constexpr int kColumns = kColumns_;  // of the tile
  static constexpr Shared kShared = kShared_;
  static constexpr int kCluster = kShared == Shared::nothing ? 1 : 2;
  static constexpr int kRows = 2 * kWaves * kChunk;
  static constexpr int kRowBytes = kRows * kSlice;
  static constexpr int kWeightBytes = kColumns * kSlice;
  static constexpr int kScaleBytes = kWaves * kScalePitch * 4;
  static constexpr int kStageBytes = kRowBytes + kWeightBytes + kScaleBytes;
  static constexpr int kOutBytes = 8 * 16 * kPiece * 2;  // 8 warps, 16 rows of a piece each
  static constexpr int kSmallBytes = 2048;               // barriers and slack
  static constexpr int kFit = (kSmemLimit - kOutBytes - kSmallBytes - 8192) / kStageBytes;
  static constexpr int kStages = kFit < 10 ? kFit : 10;
  // A box brings a chunk of rows or, if the cluster shares them, the half that this CTA loads for
  // both. The same holds for weights.
  static constexpr int kRowBox = kShared == Shared::rows ? kChunk / 2 : kChunk;
  static constexpr int kWeightBox = kShared == Shared::weights ? kColumns / 2 : kColumns;
};

template <class C>
struct ManySmem {
  alignas(1024) uint8_t rows[C::kStages][C::kRowBytes];
  alignas(1024) uint8_t weights[C::kStages][C::kWeightBytes];
  alignas(128) float scales[C::kStages][C::kWaves][kScalePitch];
  alignas(128) uint8_t out[C::kOutBytes];
  uint64_t full[C::kStages], empty[C::kStages];
  // Grouped: the tiles of all experts follow here, 2 * (experts + 1) integers.
};

struct ManyArgs {
  const float* weight_scales;  // [experts][ceil(n / 128), scale_stride]
  int64_t scale_stride;
  int n, slices;  // slices of 128 along k
  OutSegment out[kMaxSegments];
  int segments;
  ManySchedule schedule;
};

// Feeds the ring: one thread a feeder. Order of stages: tiles as scheduled, k ascending.
template <class C, Feeder kFeeder>
__device__ __forceinline__ void produce(ManySmem<C>& s, const CUtensorMap* map,
                                        const ManyArgs& args, ManyCursor<C> cursor) {
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
        for (int pair = 0; pair < C::kWaves; ++pair)
          if (pair < pairs)
            load_box(s.scales[stage][pair], map, full, (at.row & ~3) + pair * 2 * kChunk, slice);
      } else {
#pragma unroll
        for (int chunk = kFirst; chunk < 2 * C::kWaves; chunk += 2) {
          if (chunk >= at.chunks) break;
          uint8_t* to = s.rows[stage] + chunk * kChunk * kSlice;
          const int row = at.row + chunk * kChunk;
          if constexpr (C::kShared == Shared::rows)
            load_box_multicast(to + rank * C::kRowBox * kSlice, map, full, 3, k,
                               row + rank * C::kRowBox);
          else
            load_box(to, map, full, k, row);
        }
      }
      if (++stage == C::kStages) {
        stage = 0;
        parity ^= 1;
      }
    }
  }
}

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

// Stores one chunk's columns from the accumulator layout: through shared memory in pieces of
// 16 rows x 64 columns a warp, so that 8 lanes write 128 consecutive bytes of a row.
template <class C>
__device__ __forceinline__ void store_chunk(const float (&sum)[C::kColumns / 2], uint8_t* staging,
                                            const ManyArgs& args, const ManyTileAt& at, int chunk,
                                            int warp, int lane) {
  const int row = at.row + chunk * kChunk + warp * 16;
#pragma unroll
  for (int piece = 0; piece < C::kColumns / kPiece; ++piece) {
    const int column = at.column + piece * kPiece;
    if (column >= args.n) return;
    int segment = 0;
    while (segment + 1 < args.segments && column >= args.out[segment].n_end) ++segment;
    const OutSegment& out = args.out[segment];
    if (out.f32) {
      float* data = static_cast<float*>(out.data);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float* d = &sum[(piece * 8 + j) * 4];
        const int r = row + lane / 4, c = column + j * 8 + (lane % 4) * 2;
        float* to = data + r * out.stride + (c - out.n_begin);
        if (c < args.n && r < at.row_end) *reinterpret_cast<float2*>(to) = {d[0], d[1]};
        if (c < args.n && r + 8 < at.row_end)
          *reinterpret_cast<float2*>(to + 8 * out.stride) = {d[2], d[3]};
      }
      continue;
    }
    // A staged row is eight 16-byte cells, cell c of row r at c ^ (r % 8): no bank conflict on
    // either side.
    const int matrix = lane / 8, staged_row = (matrix & 1) * 8 + lane % 8;
#pragma unroll
    for (int j = 0; j < 8; j += 2) {
      uint32_t v[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* d = &sum[(piece * 8 + j + i / 2) * 4 + (i % 2) * 2];
        __nv_bfloat162 pair = __floats2bfloat162_rn(d[0], d[1]);
        v[i] = *reinterpret_cast<uint32_t*>(&pair);
      }
      const int cell = (j + matrix / 2) ^ (staged_row % 8);
      asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                       smem_address(staging + staged_row * 128 + cell * 16)),
                   "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3])
                   : "memory");
    }
    __syncwarp();
    __nv_bfloat16* data = static_cast<__nv_bfloat16*>(out.data);
    const int c = column + (lane % 8) * 8;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = i * 4 + lane / 8;
      uint4 v = *reinterpret_cast<const uint4*>(staging + r * 128 + ((lane % 8) ^ (r % 8)) * 16);
      if (c < args.n && row + r < at.row_end)
        *reinterpret_cast<uint4*>(data + (row + r) * out.stride + (c - out.n_begin)) = v;
    }
    __syncwarp();
  }
}

// One math warpgroup: all its chunks of all tiles of this CTA.
template <class C>
__device__ __forceinline__ void multiply(ManySmem<C>& s, const ManyArgs& args, ManyCursor<C> cursor,
                                         int group) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  uint8_t* staging = s.out + (group * 4 + warp) * (C::kOutBytes / 8);
  // Weight scales change every 128 columns: a run of kRun columns of the tile has one scale.
  constexpr int kRun = C::kColumns % 128 == 0 ? 128 : 64;
  constexpr bool kTwoBlocks = C::kColumns > 128;
  const int scale_blocks = (args.n + 127) / 128;
  int stage = 0;
  uint32_t parity = 0;

  for (ManyTileAt at; cursor.next(args.schedule, at);) {
    // phase 1: where this tile's weight scales lie. A tile past the last column (of an odd
    // cluster) reads the last block's and stores nothing.
    const int block = min(at.column / 128, scale_blocks - 1);
    const float* weight_scale =
        args.weight_scales + (int64_t{at.expert} * scale_blocks + block) * args.scale_stride;
    const int next_block = block + 1 < scale_blocks ? static_cast<int>(args.scale_stride) : 0;
    const int border = 128 - at.column % 128;  // columns of the tile in the first block
    const int waves = (at.chunks + 1 - group) / 2;
    const int scale_row = at.row % 4 + group * kChunk + warp * 16 + lane / 4;

    float sum[C::kWaves][C::kColumns / 2];
#pragma unroll
    for (int w = 0; w < C::kWaves; ++w)
#pragma unroll
      for (int i = 0; i < C::kColumns / 2; ++i) sum[w][i] = 0.0f;

    // phase 2: slices of K
    float scale_first = load_weight(weight_scale);
    float scale_second = kTwoBlocks ? load_weight(weight_scale + next_block) : 0.0f;
    for (int slice = 0; slice < args.slices; ++slice) {
      const float first = scale_first, second = scale_second;
      if (slice + 1 < args.slices) {  // one slice ahead of its use
        scale_first = load_weight(weight_scale + slice + 1);
        if constexpr (kTwoBlocks) scale_second = load_weight(weight_scale + next_block + slice + 1);
      }
      barrier_wait(&s.full[stage], parity);
#pragma unroll
      for (int w = 0; w < C::kWaves; ++w) {
        if (w < waves) {
          const int chunk = 2 * w + group;
          const float* row_scale = s.scales[stage][w] + scale_row;
          const float upper = row_scale[0], lower = row_scale[8];
          float partial[C::kColumns / 2];
          const uint64_t a = k_major_descriptor(s.rows[stage] + chunk * kChunk * kSlice);
          const uint64_t b = k_major_descriptor(s.weights[stage]);
          wgmma_fence();
#pragma unroll
          for (int k = 0; k < 4; ++k)  // 32 bytes of K: 2 in a descriptor's unit of 16
            wgmma_fp8<C::kColumns>(partial, a + 2 * k, b + 2 * k, k > 0);
          wgmma_commit();
          if (w + 1 == waves) fence_reads_of_stage();  // overlaps with the products
          wgmma_wait<0>();
          if (w + 1 == waves) release<C>(s, stage, lane);
#pragma unroll
          for (int j = 0; j < C::kColumns / 8; ++j) {
            float weight = first;
            if (kTwoBlocks && j * 8 / kRun * kRun >= border) weight = second;
            const float up = block_scale(upper, weight), low = block_scale(lower, weight);
            float* d = &sum[w][j * 4];
            d[0] = promote(d[0], partial[j * 4], up);
            d[1] = promote(d[1], partial[j * 4 + 1], up);
            d[2] = promote(d[2], partial[j * 4 + 2], low);
            d[3] = promote(d[3], partial[j * 4 + 3], low);
          }
        }
      }
      if (waves <= 0) release<C>(s, stage, lane);
      if (++stage == C::kStages) {
        stage = 0;
        parity ^= 1;
      }
    }

    // phase 3: out
#pragma unroll
    for (int w = 0; w < C::kWaves; ++w)
      if (w < waves) store_chunk<C>(sum[w], staging, args, at, 2 * w + group, warp, lane);
  }
}

template <class C, bool kGrouped>
__global__ __launch_bounds__(kManyThreads,
                             1) void fp8_many_kernel(const __grid_constant__ CUtensorMap rows,
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
    prefetch_map(&weights);
    prefetch_map(&scales);
    for (int i = 0; i < C::kStages; ++i) {
      barrier_init(&s.full[i], kFeeders);
      barrier_init(&s.empty[i], 8 * C::kCluster);  // a warp each
    }
    barrier_init_fence();
  }
  pdl_wait();
  if constexpr (kGrouped) {
    if (warp == 0) list_expert_tiles<C>(args.schedule, experts);
  }
  if constexpr (C::kCluster == 1)
    __syncthreads();
  else
    cluster_sync();

  // phase 2: roles
  const ManyCursor<C> cursor(args.schedule, kGrouped ? experts : nullptr);
  if (warp >= 8) {
    registers_decrease<40>();
    if (threadIdx.x % 32 == 0) {
      if (warp == 8) produce<C, Feeder::weights>(s, &weights, args, cursor);
      if (warp == 9) produce<C, Feeder::even_chunks>(s, &rows, args, cursor);
      if (warp == 10) produce<C, Feeder::odd_chunks>(s, &rows, args, cursor);
      if (warp == 11) produce<C, Feeder::scales>(s, &scales, args, cursor);
    }
    __syncwarp();
  } else {
    registers_increase<232>();
    multiply<C>(s, args, cursor, warp / 4);
  }

  // phase 3: no CTA ends while its peer may still arrive at its barriers
  pdl_trigger();
  if constexpr (C::kCluster > 1) cluster_sync();
}

}  // namespace fathom::cuda
