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
//
// The tensor cores serve all warpgroups at the same time, so that their products also end at the
// same time, and what each does between two products is not hidden by the others. Therefore only
// the promotion is left there: all that the next products need (their stage, scales and
// descriptors) is found while the products before them run.
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

template <int kGroups_, int kWaves_, int kColumns_, Shared kShared_>
struct ManyConfig {
  static constexpr int kGroups = kGroups_;    // warpgroups that multiply
  static constexpr int kWaves = kWaves_;      // chunks of a warpgroup
  static constexpr int kColumns = kColumns_;  // of the tile
  static constexpr Shared kShared = kShared_;
  static constexpr int kCluster = kShared == Shared::nothing ? 1 : 2;
  static constexpr int kThreads = (kGroups + 1) * 128;
  static constexpr int kChunks = kGroups * kWaves;
  static constexpr int kChunkPairs = (kChunks + 1) / 2;
  static constexpr int kRows = kChunks * kChunk;
  static constexpr int kRowBytes = kRows * kSlice;
  static constexpr int kWeightBytes = kColumns * kSlice;
  static constexpr int kScaleBytes = kChunkPairs * kScalePitch * 4;
  static constexpr int kStageBytes = kRowBytes + kWeightBytes + kScaleBytes;
  static constexpr int kOutBytes = kGroups * 4 * 16 * kPiece * 2;  // 16 rows of a piece a warp
  static constexpr int kSmallBytes = 2048;                         // barriers and slack
  static constexpr int kFit = (kSmemLimit - kOutBytes - kSmallBytes - 8192) / kStageBytes;
  static constexpr int kStages = kFit < 10 ? kFit : 10;
  // A box brings a chunk of rows or, if the cluster shares them, the half that this CTA loads for
  // both. The same holds for weights.
  static constexpr int kRowBox = kShared == Shared::rows ? kChunk / 2 : kChunk;
  static constexpr int kWeightBox = kShared == Shared::weights ? kColumns / 2 : kColumns;
  // All 65536 registers: what the feeders give up goes to the others. One warpgroup alone has
  // enough.
  static constexpr bool kMoveRegisters = kGroups > 1;
  static constexpr int kFeederRegisters = kGroups == 2 ? 40 : 32;
  static constexpr int kMathRegisters = kGroups == 2 ? 232 : 160;
};

template <class C>
struct ManySmem {
  alignas(1024) uint8_t rows[C::kStages][C::kRowBytes];
  alignas(1024) uint8_t weights[C::kStages][C::kWeightBytes];
  alignas(128) float scales[C::kStages][C::kChunkPairs][kScalePitch];
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
  int tail_rows;  // rows beyond the last whole chunk that have boxes of their own; 0: none
  ManySchedule schedule;
};

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
template <class C>
struct ManyMath {
  static_assert(C::kGroups == 2 || C::kWaves == 1);      // where row scales of a chunk lie
  static constexpr bool kTwoBlocks = C::kColumns > 128;  // of weight scales in a tile
  // Weight scales change every 128 columns: a run of kRun columns of the tile has one scale.
  static constexpr int kRun = C::kColumns % 128 == 0 ? 128 : 64;
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

  // Waits for the stage and takes from it what the first products need.
  template <bool kProducts>
  __device__ __forceinline__ void enter_stage() {
    barrier_wait(&s.full[stage], parity);
    if constexpr (!kProducts) return;
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
    uint8_t* staging = s.out + (group * 4 + warp) * (C::kOutBytes / (C::kGroups * 4));
#pragma unroll
    for (int w = 0; w < C::kWaves; ++w) {
      const int chunk = C::kGroups * w + group;
      if (chunk < at.chunks) store_chunk<C>(sum[w], staging, args, at, chunk, warp, lane);
    }
  }

  // A tile of which this warpgroup has kActive chunks; `column` is its first.
  template <int kActive>
  __device__ __forceinline__ void multiply_tile(int column, Sums& sum) {
    const int border = 128 - column % 128;  // columns of the tile in the first block
    enter_stage<(kActive > 0)>();
    for (int slice = 0; slice < args.slices; ++slice) {
      const bool last = slice + 1 == args.slices;
      const int from = stage;
      float first = 0, second = 0;
#pragma unroll
      for (int w = 0; w < kActive; ++w) {
        float partial[C::kColumns / 2];
        const uint32_t a = row_descriptor + w * (C::kGroups * kChunk * kSlice / 16);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; ++k)  // 32 bytes of K: 2 in a descriptor's unit of 16
          wgmma_fp8<C::kColumns>(partial, descriptor_of(a + 2 * k),
                                 descriptor_of(weight_descriptor + 2 * k), k > 0);
        wgmma_commit();

        // under the products
        if (w == 0) {
          first = first_block.at(slice, args.slices, lane);
          if constexpr (kTwoBlocks) second = second_block.at(slice, args.slices, lane);
        }
        const float up_first = block_scale(upper, first), low_first = block_scale(lower, first);
        const float up_second = block_scale(upper, second);
        const float low_second = block_scale(lower, second);
        if (w + 1 < kActive) {
          read_row_scales(w + 1);
        } else {
          fence_reads_of_stage();
          advance();
          if (!last) enter_stage<true>();
        }

        wgmma_wait<0>();
        if (w + 1 == kActive) release<C>(s, from, lane);
#pragma unroll
        for (int j = 0; j < C::kColumns / 8; ++j) {
          const bool in_second = kTwoBlocks && j * 8 / kRun * kRun >= border;
          const float up = in_second ? up_second : up_first;
          const float low = in_second ? low_second : low_first;
          float* d = &sum[w][j * 4];
          d[0] = promote(d[0], partial[j * 4], up);
          d[1] = promote(d[1], partial[j * 4 + 1], up);
          d[2] = promote(d[2], partial[j * 4 + 2], low);
          d[3] = promote(d[3], partial[j * 4 + 3], low);
        }
      }
      if constexpr (kActive == 0) {
        release<C>(s, from, lane);
        advance();
        if (!last) enter_stage<false>();
      }
    }
  }

  __device__ __forceinline__ void run() {
    ManyTileAt at;
    if (!cursor.next(args.schedule, at)) return;
    begin_tile(at);
    for (bool more = true; more;) {
      Sums sum;
      clear(sum);
      const int waves = waves_of(at);
      if (waves == C::kWaves)
        multiply_tile<C::kWaves>(at.column, sum);
      else if (C::kWaves > 1 && waves == 1)
        multiply_tile<1>(at.column, sum);
      else
        multiply_tile<0>(at.column, sum);
      ManyTileAt next{};
      more = cursor.next(args.schedule, next);
      if (more) begin_tile(next);  // its scales arrive while this tile is stored
      store(sum, at);
      at = next;
    }
  }
};

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
  constexpr int kFeederWarp = C::kGroups * 4;
  if (warp >= kFeederWarp) {
    if constexpr (C::kMoveRegisters) registers_decrease<C::kFeederRegisters>();
    if (threadIdx.x % 32 == 0) {
      if (warp == kFeederWarp) produce<C, Feeder::weights>(s, &weights, &tail, args, cursor);
      if (warp == kFeederWarp + 1) produce<C, Feeder::even_chunks>(s, &rows, &tail, args, cursor);
      if (warp == kFeederWarp + 2) produce<C, Feeder::odd_chunks>(s, &rows, &tail, args, cursor);
      if (warp == kFeederWarp + 3) produce<C, Feeder::scales>(s, &scales, &tail, args, cursor);
    }
    __syncwarp();
  } else {
    if constexpr (C::kMoveRegisters) registers_increase<C::kMathRegisters>();
    // Read from one lane, so that the compiler knows it equal in all and keeps what follows from it
    // in uniform registers.
    const int group = __shfl_sync(~0u, warp / 4, 0);
    ManyMath<C>{s, args, cursor, group, warp % 4, static_cast<int>(threadIdx.x % 32)}.run();
  }

  // phase 3: no CTA ends while its peer may still arrive at its barriers
  pdl_trigger();
  if constexpr (C::kCluster > 1) cluster_sync();
}

}  // namespace fathom::cuda
