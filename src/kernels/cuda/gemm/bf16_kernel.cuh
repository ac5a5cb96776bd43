// The bf16 product on Hopper's tensor cores: one producer warp feeds a ring of shared-memory stages
// through the copy engine, one or two warpgroups multiply, a persistent grid walks the tiles, so
// that loads of the next tile run under the epilogue of this one.
//
// Numerics
//   in   bf16 a and b; a tail of k shorter than a stage is filled with zeros by the copy engine
//   sum  float32 in the tensor core, k ascending in steps of 16, in every shape of the kernel;
//        with `splits` > 1 each CTA of a cluster sums one range of k from zero, and the partial
//        sums are added in the order of their ranges: the same bits in every run
//   out  rounded once to bf16 (nearest even), or stored as float32; codes of the rounded values
#pragma once

#include "kernels/cuda/gemm/bf16_codes.cuh"
#include "kernels/cuda/gemm/bf16_work.h"
#include "kernels/cuda/prim/barrier.h"
#include "kernels/cuda/prim/launch.h"
#include "kernels/cuda/prim/tma.h"
#include "kernels/cuda/prim/wgmma.h"

namespace fathom::cuda {

inline constexpr int kBf16MaxSplits = 8;  // the largest portable cluster

// A Bf16Shape as a template argument (nvcc cannot name a kernel by a struct's value).
template <int kWarpgroups, int kRows, bool kTokensM, bool kGrouped>
struct Bf16Config {
  static constexpr Bf16Shape kShape{kWarpgroups, kRows, kTokensM, kGrouped};
  // An accumulator of 256 columns needs more than an equal share of the registers. Only whole
  // warpgroups can trade registers, so there the producer is a warpgroup with a single working
  // warp.
  static constexpr bool kTrade = kRows > 128 && kWarpgroups > 1;
  static constexpr int kMathThreads = kWarpgroups * 128;
  static constexpr int kThreads = kMathThreads + (kTrade ? 128 : 32);
};

// Bytes of shared memory beside the ring, in this order after it.
constexpr int bf16_staging_bytes(const Bf16Shape& s) {
  return s.warpgroups * 4 * (s.tokens_m ? 4096 : s.n_rows * 32);
}

struct Bf16Tile {
  int batch;    // or expert
  int token0;   // row of `a`
  int weight0;  // row of `b`
  int row_limit;
};

// The tiles of one CTA: `item`, item + step, ... Tiles that share weights are neighbours, and
// tokens run fastest, so that weights read from memory once serve the others from L2.
template <class Config>
struct Bf16Walk {
  static constexpr Bf16Shape kShape = Config::kShape;

  const Bf16Work& w;
  const int* table;  // grouped: token tiles of the experts before each one
  int item, step, expert = 0;

  __device__ bool next(Bf16Tile& tile) {
    if constexpr (kShape.grouped) {
      const int total = table[w.batch] * w.weight_tiles;
      if (item >= total) return false;
      while (item >= table[expert + 1] * w.weight_tiles) ++expert;
      const int local = item - table[expert] * w.weight_tiles;
      const int tiles = table[expert + 1] - table[expert];
      tile.batch = expert;
      tile.row_limit = w.offsets[expert + 1];
      tile.token0 = w.offsets[expert] + local % tiles * kShape.token_rows();
      tile.weight0 = local / tiles * kShape.weight_rows();
    } else {
      if (item >= w.token_tiles * w.weight_tiles * w.batch) return false;
      const int rest = item / w.token_tiles;
      tile.token0 = item % w.token_tiles * kShape.token_rows();
      tile.weight0 = rest % w.weight_tiles * kShape.weight_rows();
      tile.batch = rest / w.weight_tiles;
      tile.row_limit = w.rows;
    }
    item += step;
    return true;
  }
};

struct Bf16Ring {
  int stage = 0, phase = 0;
  __device__ void advance(int stages) {
    if (++stage == stages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// Waits by role: the producer's one thread after it has issued its first weights, the math warps at
// once, and in a grouped product all threads. The producer's other threads touch no memory.
template <class Config>
__global__ void __launch_bounds__(Config::kThreads, Config::kShape.per_processor())
    bf16_gemm_kernel(const __grid_constant__ CUtensorMap m_map,
                     const __grid_constant__ CUtensorMap n_map,
                     const __grid_constant__ Bf16Work work, int splits) {
  constexpr Bf16Shape kShape = Config::kShape;
  constexpr bool kTokensM = kShape.tokens_m, kGrouped = kShape.grouped;
  constexpr int kRows = kShape.n_rows;
  constexpr int kMathThreads = Config::kMathThreads, kMathWarps = kMathThreads / 32;
  constexpr int kStage = kShape.stage_bytes(), kMBytes = kShape.m_rows() * 128;
  extern __shared__ __align__(1024) uint8_t shared[];
  uint8_t* const staging = shared + work.stages * kStage;
  uint64_t* const full = reinterpret_cast<uint64_t*>(staging + bf16_staging_bytes(kShape));
  uint64_t* const empty = full + work.stages;
  int* const table = reinterpret_cast<int*>(empty + work.stages);
  const int warp = static_cast<int>(threadIdx.x) / 32;

  // phase 1: barriers, and the table of the experts' tiles
  if (threadIdx.x == 0) {
    for (int i = 0; i < work.stages; ++i) {
      barrier_init(&full[i], 1);
      barrier_init(&empty[i], kMathWarps);
    }
    barrier_init_fence();
  }
  if constexpr (kGrouped) {
    pdl_wait();
    for (int e = static_cast<int>(threadIdx.x); e < work.batch; e += blockDim.x)
      table[e + 1] =
          (work.offsets[e + 1] - work.offsets[e] + kShape.token_rows() - 1) / kShape.token_rows();
    __syncthreads();
    if (warp == 0) {
      int before = 0;
      for (int e = 0; e < work.batch; e += 32) {
        const int lane = static_cast<int>(threadIdx.x), at = e + lane;
        int sum = at < work.batch ? table[at + 1] : 0;
        for (int d = 1; d < 32; d *= 2) {
          const int below = __shfl_up_sync(0xFFFFFFFF, sum, d);
          if (lane >= d) sum += below;
        }
        if (at < work.batch) table[at + 1] = before + sum;
        before += __shfl_sync(0xFFFFFFFF, sum, 31);
      }
      if (threadIdx.x == 0) table[0] = 0;
    }
  }
  __syncthreads();

  int first_slice = 0, end_slice = work.slices, share = 1;
  if constexpr (!kTokensM && !kGrouped) {
    share = splits;
    const int rank = splits > 1 ? static_cast<int>(cluster_rank()) : 0;
    first_slice = rank * work.slices / splits;
    end_slice = (rank + 1) * work.slices / splits;
  }
  Bf16Walk<Config> walk{work, table, static_cast<int>(blockIdx.x) / share,
                        static_cast<int>(gridDim.x) / share};
  Bf16Tile tile{};
  Bf16Ring ring;

  if (warp >= kMathWarps) {
    // phase 2, the producer warp: one thread fills the ring
    if constexpr (Config::kTrade) registers_decrease<40>();
    if (warp == kMathWarps && elect_one()) {
      const uint64_t weight_policy =
          work.token_tiles == 1 && !kGrouped ? kEvictFirst : kEvictNormal;
      const auto load_m = [&](int slice, uint64_t policy) {
        load_box(shared + ring.stage * kStage, &m_map, &full[ring.stage], slice * kBf16SliceK,
                 kTokensM ? tile.token0 : tile.weight0, !kTokensM || !kGrouped ? tile.batch : 0,
                 policy);
      };
      const auto load_n = [&](int slice, uint64_t policy) {
        uint8_t* to = shared + ring.stage * kStage + kMBytes;
        const int batch = kTokensM || !kGrouped ? tile.batch : 0;
        const int row = kTokensM ? tile.weight0 : tile.token0;
        load_box(to, &n_map, &full[ring.stage], slice * kBf16SliceK, row, batch, policy);
      };
      const auto load_weights = [&](int slice) {
        kTokensM ? load_n(slice, weight_policy) : load_m(slice, weight_policy);
      };
      const auto load_tokens = [&](int slice) {
        kTokensM ? load_m(slice, kEvictNormal) : load_n(slice, kEvictNormal);
      };
      bool more = walk.next(tile);
      // The weights of the first tile are loaded before the kernels this one waits for have
      // finished.
      const int early = more ? min(work.stages, end_slice - first_slice) : 0;
      for (int i = 0; i < early; ++i, ring.advance(work.stages)) {
        barrier_arrive_expect(&full[ring.stage], work.stage_bytes);
        load_weights(first_slice + i);
      }
      pdl_wait();
      ring = {};
      for (int i = 0; i < early; ++i, ring.advance(work.stages)) load_tokens(first_slice + i);
      for (int slice = first_slice + early; more; slice = first_slice) {
        for (; slice < end_slice; ++slice, ring.advance(work.stages)) {
          barrier_wait(&empty[ring.stage], ring.phase ^ 1);
          barrier_arrive_expect(&full[ring.stage], work.stage_bytes);
          load_weights(slice);
          load_tokens(slice);
        }
        more = walk.next(tile);
      }
    }
    __syncwarp();
    if (splits > 1) cluster_sync();
  } else {
    // phase 3, the math warps
    if constexpr (Config::kTrade) registers_increase<232>();
    const int group = warp / 4;
    const uint64_t m_base = k_major_descriptor(shared + group * 64 * 128);
    const uint64_t n_base = k_major_descriptor(shared + kMBytes);
    const auto release = [&](int stage) {
      if (threadIdx.x % 32 == 0) barrier_arrive(&empty[stage]);
    };
    float d[kRows / 2];
    pdl_wait();
    // The next kernel may come as soon as there is room: it fetches its weights while this one
    // ends.
    pdl_trigger();
    while (walk.next(tile)) {
      int before = 0;
      for (int slice = first_slice; slice < end_slice; ++slice, ring.advance(work.stages)) {
        barrier_wait(&full[ring.stage], ring.phase);
        const uint64_t at = static_cast<uint64_t>(ring.stage) * (kStage >> 4);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < kBf16SliceK / 16; ++k)
          wgmma_bf16<kRows>(d, m_base + at + k * 2, n_base + at + k * 2,
                            slice > first_slice || k > 0);
        wgmma_commit();
        if (slice > first_slice) {
          wgmma_wait<1>();
          release(before);
        }
        before = ring.stage;
      }
      wgmma_wait<0>();
      pin_registers(d);
      release(before);

      // phase 4: the epilogue
      Bf16Target target{tile.batch, tile.token0, tile.row_limit, tile.weight0};
      const uint32_t mine =
          smem_address(staging) + warp * (bf16_staging_bytes(kShape) / kMathWarps);
      if constexpr (kTokensM) {
        target.row0 += warp * 16;
        store_tokens_m<kRows>(d, mine, work, target);
        if constexpr (bf16_codes_shape(kShape))
          if (work.coded.codes) store_codes_tokens_m(d, mine, work.coded, target);
      } else if (kGrouped || splits == 1) {
        target.n0 += warp * 16;
        store_weights_m<kRows>(d, mine, work, target);
        if constexpr (bf16_codes_shape(kShape))
          if (work.coded.codes)
            store_codes_weights_m<kRows>(d, smem_address(staging), work.coded, target);
      } else {
        // The ring is free: this is the CTA's only tile and all of it has been multiplied.
        float* partial = reinterpret_cast<float*>(shared);
        named_sync(1, kMathThreads);
        stage_partial<kRows>(d, partial, kShape.m_rows());
        cluster_sync();
        reduce_partials<kBf16MaxSplits>(partial, kShape.m_rows(),
                                        min(kRows, tile.row_limit - tile.token0), splits,
                                        kMathThreads, work, target);
      }
    }
  }
  // No CTA leaves while another may still reach into its shared memory.
  if (splits > 1) cluster_sync();
}

// Launches if the plan's shape is this one.
template <class Config>
bool launch_bf16_config(const Bf16Plan& plan, const CUtensorMap& m_map, const CUtensorMap& n_map,
                        const Bf16Work& work, const Launch& l) {
  if (plan.shape != Config::kShape) return false;
  launch_kernel(l, bf16_gemm_kernel<Config>, dim3(static_cast<unsigned>(plan.grid)),
                dim3(Config::kThreads), static_cast<size_t>(plan.smem),
                static_cast<unsigned>(plan.splits), m_map, n_map, work, plan.splits);
  return true;
}

}  // namespace fathom::cuda
