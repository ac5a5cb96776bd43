// The few-rows FP8 kernel: D[weight rows, tokens] = W A^T on the tensor cores, streamed once.
//
// Numerics (fp8_gemm.h)
//   partial   four m64nNk32 e4m3 products, started from zero every 128 of k
//   sum       float32: promote(sum, partial, activation scale * weight scale), k ascending
//   split K   CTA r of a cluster sums slices [r S / splits, (r + 1) S / splits); the parts are
//             added in the order of r, float32
//   out       one rounding to bf16, or float32
// Columns are independent of each other, so whatever lies in the unused ones (stale shared memory,
// rows of the next expert) reaches no result.
#pragma once

#include "kernels/cuda/gemm/fp8_few_launch.h"
#include "kernels/cuda/gemm/fp8_promote.h"
#include "kernels/cuda/prim/launch.h"
#include "kernels/cuda/prim/tma.h"
#include "kernels/cuda/prim/wgmma.h"

namespace fathom::cuda {

// One tile: 64 * groups weight rows from `n0` of `expert`, and `count` tokens. The boxes loaded
// begin at row `first`; the tile's own tokens begin at column `shift` of them. Scales are loaded
// from a multiple of 4 (16 bytes, as the copy engine requires) on, so those of column 0 are at
// `scale_shift`.
struct FewTile {
  int expert, n0, first, shift, count, boxes, scale_shift;
};

// Table of a grouped product in shared memory: row tiles before each expert, and its first row.
struct FewTable {
  int* tiles;  // [experts + 1]
  int* rows;   // [experts + 1]
};

// All threads of the CTA. Experts are taken in runs of the CTA's size, with a scan over each run.
template <int kTokens, int kThreads>
__device__ void fill_table(const FewTable& table, const int32_t* offsets, int experts,
                           int* warp_sums) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  int before = 0;
  for (int base = 0; base < experts; base += kThreads) {
    const int e = base + static_cast<int>(threadIdx.x);
    const int begin = e < experts ? offsets[e] : 0;
    const int end = e < experts ? offsets[e + 1] : 0;
    const int own = (end - begin + kTokens - 1) / kTokens;
    int sum = own;
    for (int d = 1; d < 32; d *= 2) {
      const int other = __shfl_up_sync(0xFFFFFFFFu, sum, d);
      if (lane >= d) sum += other;
    }
    if (lane == 31) warp_sums[warp] = sum;
    __syncthreads();
    int total = 0;
    for (int w = 0; w < kThreads / 32; ++w) {
      if (w == warp) sum += total;
      total += warp_sums[w];
    }
    if (e < experts) {
      table.tiles[e] = before + sum - own;
      table.rows[e] = begin;
      if (e == experts - 1) {
        table.tiles[experts] = before + sum;
        table.rows[experts] = end;
      }
    }
    before += total;
    __syncthreads();
  }
}

template <int kTokens, int kGroups, bool kGrouped>
__device__ __forceinline__ FewTile few_tile(const FewArgs& args, const FewTable& table, int tile,
                                            int n_tiles) {
  FewTile t;
  t.n0 = tile % n_tiles * 64 * kGroups;
  if constexpr (!kGrouped) {
    t.expert = t.first = t.shift = t.scale_shift = 0;
    t.count = args.rows_total;
    t.boxes = 1;
  } else {
    const int row_tile = tile / n_tiles;
    int low = 0, high = args.experts;  // the last expert whose tiles begin at or before row_tile
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (table.tiles[middle] <= row_tile)
        low = middle;
      else
        high = middle;
    }
    t.expert = low;
    const int begin = table.rows[low] + (row_tile - table.tiles[low]) * kTokens;
    t.count = min(table.rows[low + 1] - begin, kTokens);
    t.boxes = (t.count + args.box_rows - 1) / args.box_rows;
    // A box that hangs over the end of the rows loads slowly: move it back if there is room.
    t.first = max(0, min(begin, args.rows_total - t.boxes * args.box_rows));
    t.shift = begin - t.first;
    // Moved back, the boxes still end after the last row; not moved, shift is 0.
    t.scale_shift = t.first % 4;
  }
  return t;
}

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}

__device__ __forceinline__ float4 load_remote(uint32_t address) {
  float4 v;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address));
  return v;
}

// Adds the parts of 8 neighbouring weight rows of a token at a time, in the order of the CTAs.
template <int kGroups, int kThreads>
__device__ __forceinline__ void add_parts(const FewArgs& args, const uint8_t* part, int n0,
                                          int rank) {
  constexpr int kPitch = (64 * kGroups + FewLayout::kPartialPad) * 4;
  constexpr int kChunks = 8 * kGroups;  // of a token
  const int chunks = args.rows_total * kChunks;
  for (int i = rank * kThreads + static_cast<int>(threadIdx.x); i < chunks;
       i += args.splits * kThreads) {
    const int token = i / kChunks, n = n0 + i % kChunks * 8;
    if (n >= args.n) continue;
    const uint8_t* const at = part + token * kPitch + i % kChunks * 32;
    // All loads first: each one crosses the cluster and takes as long as hundreds of additions.
    float4 low[kMaxSplits], high[kMaxSplits];
#pragma unroll
    for (int r = 0; r < kMaxSplits; ++r)
      if (r < args.splits) {
        const uint32_t remote = cluster_address(at, static_cast<uint32_t>(r));
        low[r] = load_remote(remote);
        high[r] = load_remote(remote + 16);
      }
    float sum[8] = {low[0].x,  low[0].y,  low[0].z,  low[0].w,
                    high[0].x, high[0].y, high[0].z, high[0].w};
#pragma unroll
    for (int r = 1; r < kMaxSplits; ++r)
      if (r < args.splits) {
        sum[0] += low[r].x;
        sum[1] += low[r].y;
        sum[2] += low[r].z;
        sum[3] += low[r].w;
        sum[4] += high[r].x;
        sum[5] += high[r].y;
        sum[6] += high[r].z;
        sum[7] += high[r].w;
      }
    int s = 0;
    while (s + 1 < args.segments && n >= args.out[s].n_end) ++s;
    const OutSegment& out = args.out[s];
    const int64_t to = token * out.stride + n - out.n_begin;
    if (out.f32) {
      float4* const data = reinterpret_cast<float4*>(static_cast<float*>(out.data) + to);
      data[0] = {sum[0], sum[1], sum[2], sum[3]};
      data[1] = {sum[4], sum[5], sum[6], sum[7]};
    } else {
      *reinterpret_cast<uint4*>(static_cast<Bf16*>(out.data) + to) = {
          pack_bf16(sum[0], sum[1]), pack_bf16(sum[2], sum[3]), pack_bf16(sum[4], sum[5]),
          pack_bf16(sum[6], sum[7])};
    }
  }
}

template <int kTokens, int kGroups, bool kGrouped>
__global__ void __launch_bounds__(128 * kGroups + 32, FewLayout::ctas_per_sm(kTokens, kGroups))
    fp8_few_kernel(const __grid_constant__ FewArgs args) {
  constexpr int kThreads = 128 * kGroups + 32;
  constexpr int kWeightBytes = 64 * kGroups * FewLayout::kSlice;
  constexpr int kStageBytes = static_cast<int>(FewLayout::stage_bytes(kTokens, kGroups));
  constexpr int kScaleBytes = static_cast<int>(FewLayout::stage_scale_bytes(kTokens));
  constexpr int kSums = kTokens / 2;  // accumulators of a thread

  // phase 0: shared memory, barriers
  extern __shared__ uint8_t dynamic_memory[];
  __shared__ int warp_sums[kThreads / 32];
  uint8_t* memory = dynamic_memory + (1024 - smem_address(dynamic_memory) % 1024) % 1024;
  const FewLayout layout(kTokens, kGroups, args.stages, args.experts);
  uint8_t* const ring = memory;
  uint8_t* const scale_ring = memory + layout.scales;
  uint8_t* const stash = memory + layout.stash;
  uint64_t* const full = reinterpret_cast<uint64_t*>(memory + layout.barriers);
  uint64_t* const empty = full + args.stages;
  FewTable table{reinterpret_cast<int*>(memory + layout.table), nullptr};
  table.rows = table.tiles + args.experts + 1;

  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const bool producer = warp == 4 * kGroups;
  const int stages = args.stages;
  const int rank = args.splits > 1 ? static_cast<int>(cluster_rank()) : 0;
  const int k_begin = rank * args.slices / args.splits;
  const int k_end = (rank + 1) * args.slices / args.splits;
  const int n_tiles = (args.n + 64 * kGroups - 1) / (64 * kGroups);
  const int first_tile = static_cast<int>(blockIdx.x) / args.splits;
  const int tile_step = static_cast<int>(gridDim.x) / args.splits;

  if (producer && elect_one()) {
    prefetch_map(&args.weights);
    prefetch_map(&args.rows);
    prefetch_map(&args.scales);
    for (int s = 0; s < stages; ++s) {
      barrier_init(&full[s], 1);
      barrier_init(&empty[s], 4 * kGroups);
    }
    barrier_init_fence();
    if constexpr (!kGrouped) {
      // No kernel writes weights, so the ring is filled with them while the previous kernel still
      // runs. The barriers expect the bytes of the activations, too, so they cannot complete
      // without them.
      const uint32_t bytes = kWeightBytes + args.box_rows * FewLayout::kSlice + args.scale_box * 4;
      const int ahead = min(stages, k_end - k_begin);
      for (int s = 0; s < ahead; ++s) {
        barrier_arrive_expect(&full[s], bytes);
        load_box(ring + s * kStageBytes, &args.weights, &full[s], (k_begin + s) * FewLayout::kSlice,
                 first_tile * 64 * kGroups, kEvictFirst);
      }
    }
  }
  __syncthreads();
  pdl_wait();
  pdl_trigger();
  int tiles = n_tiles;
  if constexpr (kGrouped) {
    fill_table<kTokens, kThreads>(table, args.offsets, args.experts, warp_sums);
    tiles = n_tiles * table.tiles[args.experts];
  }

  if (producer) {
    // phase 1, one thread: keep the ring full, across tiles
    if (elect_one()) {
      int stage = 0;
      uint32_t phase = 1;  // of `empty`: the first round finds every stage free
      bool ahead = !kGrouped;
      for (int i = first_tile; i < tiles; i += tile_step) {
        const FewTile t = few_tile<kTokens, kGroups, kGrouped>(args, table, i, n_tiles);
        const int weight_row = t.expert * args.n + t.n0;
        const uint32_t bytes =
            kWeightBytes + t.boxes * args.box_rows * FewLayout::kSlice + args.scale_box * 4;
        for (int k = k_begin; k < k_end; ++k) {
          uint8_t* const to = ring + stage * kStageBytes;
          if (!ahead) {
            barrier_wait(&empty[stage], phase);
            barrier_arrive_expect(&full[stage], bytes);
            load_box(to, &args.weights, &full[stage], k * FewLayout::kSlice, weight_row,
                     kEvictFirst);
          }
          for (int b = 0; b < t.boxes; ++b)
            load_box(to + kWeightBytes + b * args.box_rows * FewLayout::kSlice, &args.rows,
                     &full[stage], k * FewLayout::kSlice, t.first + b * args.box_rows, kEvictLast);
          load_box(scale_ring + stage * kScaleBytes, &args.scales, &full[stage],
                   t.first - t.scale_shift, k, kEvictLast);
          if (++stage == stages) {
            stage = 0;
            phase ^= 1;
            ahead = false;
          }
        }
        ahead = false;
      }
    }
    __syncwarp();
  } else {
    // phase 2, math warpgroups: 64 weight rows each
    const int group = warp / 4;
    int stage = 0;
    uint32_t phase = 0;
    for (int i = first_tile; i < tiles; i += tile_step) {
      const FewTile t = few_tile<kTokens, kGroups, kGrouped>(args, table, i, n_tiles);
      const int n0 = t.n0 + 64 * group;
      const int scale_row = t.expert * ((args.n + 127) / 128) + min(n0, args.n - 1) / 128;
      const float* const weight_scales =
          args.weight_scales + static_cast<int64_t>(scale_row) * args.slices;
      // Lane l holds the weight scale of slice 32 c + l of this run and of the next.
      auto scale_of = [&](int k) { return k < k_end ? load_weight(weight_scales + k) : 0.0f; };
      float run = scale_of(k_begin + lane), next_run = scale_of(k_begin + 32 + lane);

      float sum[kSums] = {};
      float even[kSums];
      [[maybe_unused]] float odd[kSums];
      int release = stage;  // the stage whose products are next to finish
      int k = 0;            // and its slice, from k_begin
      auto issue = [&](float(&partial)[kSums]) {
        barrier_wait(&full[stage], phase);
        const uint8_t* const at = ring + stage * kStageBytes;
        const uint64_t w = k_major_descriptor(at + group * 64 * FewLayout::kSlice);
        const uint64_t a = k_major_descriptor(at + kWeightBytes);
        pin_registers(partial);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < 4; ++step)  // 32 codes on = 2 units of 16 bytes
          wgmma_fp8<kTokens>(partial, w + 2 * step, a + 2 * step, step);
        wgmma_commit();
        if (++stage == stages) {
          stage = 0;
          phase ^= 1;
        }
      };
      auto finish = [&](float(&partial)[kSums]) {
        pin_registers(partial);
        const float* const scales =
            reinterpret_cast<const float*>(scale_ring + release * kScaleBytes) + t.scale_shift +
            lane % 4 * 2;
        const float weight = __shfl_sync(0xFFFFFFFFu, run, k % 32);
#pragma unroll
        for (int j = 0; j < kTokens / 8; ++j) {
          float2 s;
          if constexpr (kGrouped)  // tokens of an expert may begin at any column
            s = {scales[8 * j], scales[8 * j + 1]};
          else
            s = *reinterpret_cast<const float2*>(scales + 8 * j);
          const float s0 = block_scale(s.x, weight), s1 = block_scale(s.y, weight);
          sum[4 * j] = promote(sum[4 * j], partial[4 * j], s0);
          sum[4 * j + 1] = promote(sum[4 * j + 1], partial[4 * j + 1], s1);
          sum[4 * j + 2] = promote(sum[4 * j + 2], partial[4 * j + 2], s0);
          sum[4 * j + 3] = promote(sum[4 * j + 3], partial[4 * j + 3], s1);
        }
        fence_reads_of_stage();
        __syncwarp();
        if (lane == 0) barrier_arrive(&empty[release]);
        if (++release == stages) release = 0;
        if (++k % 32 == 0) {
          run = next_run;
          next_run = scale_of(k_begin + k + 32 + lane);
        }
      };
      const int count = k_end - k_begin;
      if constexpr (FewLayout::pipelined(kTokens, kGroups)) {
        // Two slices in flight: one multiplies while the other is promoted.
        issue(even);
        int done = 0;
        for (; done + 2 < count; done += 2) {
          issue(odd);
          wgmma_wait<1>();
          finish(even);
          issue(even);
          wgmma_wait<1>();
          finish(odd);
        }
        if (done + 1 < count) {
          issue(odd);
          wgmma_wait<1>();
          finish(even);
          wgmma_wait<0>();
          finish(odd);
        } else {
          wgmma_wait<0>();
          finish(even);
        }
      } else {
        for (int i = 0; i < count; ++i) {
          issue(even);
          wgmma_wait<0>();
          finish(even);
        }
      }

      // phase 3: results out
      const int row = warp % 4 * 16 + lane / 4;  // of the 64; the other one is row + 8
      if (args.splits > 1) {
        // The partial sums overwrite the ring, once no warpgroup of this CTA reads it any more.
        named_sync(1, 128 * kGroups);
        constexpr int kPitch = 64 * kGroups + FewLayout::kPartialPad;
        float* const at = reinterpret_cast<float*>(ring) + 64 * group + row;
#pragma unroll
        for (int j = 0; j < kSums; ++j)
          at[(j / 4 * 8 + lane % 4 * 2 + j % 2) * kPitch + (j / 2 % 2) * 8] = sum[j];
        break;  // a cluster has one tile
      }
      if (n0 >= args.n) continue;
      int s = 0;
      while (s + 1 < args.segments && n0 >= args.out[s].n_end) ++s;
      const OutSegment& out = args.out[s];
      const int64_t first_row = t.first + t.shift;
      if (out.f32) {
        float* const data = static_cast<float*>(out.data) + (n0 - out.n_begin);
#pragma unroll
        for (int j = 0; j < kSums; ++j) {
          const int token = j / 4 * 8 + lane % 4 * 2 + j % 2 - t.shift;
          const int n = row + (j / 2 % 2) * 8;
          if (token >= 0 && token < t.count && n0 + n < out.n_end)
            data[(first_row + token) * out.stride + n] = sum[j];
        }
        continue;
      }
      // bf16: transposed through the stash, so that a token's 64 results leave as one line
      uint8_t* const mine = stash + group * kTokens * FewLayout::kStashPitch;
      named_sync(2 + group, 128);  // the stash is free again
#pragma unroll
      for (int j = 0; j < kTokens / 8; ++j) {
        const uint32_t low = pack_bf16(sum[4 * j], sum[4 * j + 1]);
        const uint32_t high = pack_bf16(sum[4 * j + 2], sum[4 * j + 3]);
        // Lanes 0-7 name the rows (tokens) of the first 8x8 block, lanes 8-15 those of the second.
        const uint32_t to = smem_address(mine) + (8 * j + lane % 8) * FewLayout::kStashPitch +
                            warp % 4 * 32 + (lane / 8 % 2) * 16;
        asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(to),
                     "r"(low), "r"(high)
                     : "memory");
      }
      named_sync(2 + group, 128);
      Bf16* const data = static_cast<Bf16*>(out.data) + (n0 - out.n_begin);
      const int chunk = static_cast<int>(threadIdx.x) % 8;  // 8 results of 16 bytes
      if (n0 + 8 * chunk < out.n_end)
        for (int token = static_cast<int>(threadIdx.x) % 128 / 8; token < t.count; token += 16) {
          const uint4 v = *reinterpret_cast<const uint4*>(
              mine + (token + t.shift) * FewLayout::kStashPitch + 16 * chunk);
          *reinterpret_cast<uint4*>(data + (first_row + token) * out.stride + 8 * chunk) = v;
        }
    }
  }

  // phase 4, split K: every CTA of the cluster adds its share of the tile
  if constexpr (!kGrouped) {
    if (args.splits > 1) {
      cluster_sync();
      add_parts<kGroups, kThreads>(args, ring, first_tile * 64 * kGroups, rank);
      cluster_sync();  // no CTA ends while others read its part
    }
  }
}

// Two CTAs fit on a processor only if it is told to use all memory it can as shared memory.
inline void launch_few(void (*kernel)(FewArgs), int threads, const FewArgs& args,
                       const FewPlan& plan, const Launch& l) {
  FATHOM_CUDA(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                   cudaFuncAttributePreferredSharedMemoryCarveout,
                                   cudaSharedmemCarveoutMaxShared));
  launch_kernel(l, kernel, dim3(static_cast<unsigned>(plan.ctas)),
                dim3(static_cast<unsigned>(threads)), plan.smem, static_cast<unsigned>(plan.splits),
                args);
}

}  // namespace fathom::cuda
