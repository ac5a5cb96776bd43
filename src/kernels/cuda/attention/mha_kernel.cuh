// Expanded attention: keys of 192 and values of 128 per head, causal or with a bit mask.
//
// One thread block takes 128 tokens of one head. Two warpgroups own 64 tokens each; one warp loads
// key and value blocks of 128 positions into two-stage rings. A warpgroup issues the scores of the
// next block before the value products of the current one, and computes the softmax while those
// products run.
//
// Numerics
//   in   q, k, v bf16                     QK   float32 accumulation over 192
//   P    exp2 of the float32 score against the running maximum; the sum takes the float32 values,
//        the product their bf16 rounding
//   PV   float32 accumulation, divided by the sum, rounded once to bf16
//   Blocks start at multiples of 128 positions and hidden keys weigh exactly 0, so a token's bits
//   do not depend on the tile it sits in.
#pragma once

#include "kernels/cuda/attention/fragments.cuh"
#include "kernels/cuda/attention/mha_args.h"
#include "kernels/cuda/prim/barrier.h"
#include "kernels/cuda/prim/wgmma.h"

namespace fathom::cuda::mha {

constexpr int kTileBytes = 128 * 128;  // 128 rows x 64 bf16, 128-byte swizzle
constexpr int kQueryTiles = 3, kValueTiles = 2, kStages = 2;
constexpr int kThreads = 384;
constexpr int kMathRegisters = 240, kProducerRegisters = 24;
constexpr int kHeadsTogether = 8;  // heads whose keys and values share the L2 cache at a time

struct alignas(1024) Shared {
  uint8_t query[kQueryTiles][kTileBytes];  // later the output
  uint8_t keys[kStages][kQueryTiles][kTileBytes];
  uint8_t values[kStages][kValueTiles][kTileBytes];
  uint64_t query_ready;
  uint64_t keys_ready[kStages], keys_free[kStages];
  uint64_t values_ready[kStages], values_free[kStages];
};
static_assert(sizeof(Shared) <= 227 * 1024);

constexpr uint64_t kTileStep = kTileBytes >> 4;
constexpr uint64_t kColumnStep = 32 >> 4;
constexpr uint64_t kKeyStep = (16 * 128) >> 4;

// Which tokens, head and keys a block of threads works on.
struct Tile {
  int token, head;  // first token
  int blocks;       // of keys: up to the last token's own position
};

// Long tiles first, so that the short ones fill the end of the launch; heads in small groups, so
// that their keys stay in the L2 cache.
__device__ __forceinline__ Tile tile_of(const AttendArgs& a, int index) {
  const int tiles = (a.tokens + kQueryRows - 1) / kQueryRows;
  const int group = index / (tiles * kHeadsTogether);
  const int heads = min(kHeadsTogether, a.heads - group * kHeadsTogether);
  const int within = index - group * tiles * kHeadsTogether;
  Tile t;
  t.token = (tiles - 1 - within / heads) * kQueryRows;
  t.head = group * kHeadsTogether + within % heads;
  const int last = a.first_position + min(t.token + kQueryRows, a.tokens) - 1;
  t.blocks = last / kKeyRows + 1;
  return t;
}

__device__ __forceinline__ void produce(const AttendArgs& a, Shared& sm, const Tile& t) {
  barrier_arrive_expect(&sm.query_ready, kQueryTiles * kTileBytes);
  for (int i = 0; i < kQueryTiles; ++i)
    load_box(sm.query[i], &a.query, &sm.query_ready, i * 64, t.head, t.token, kEvictFirst);
  for (int block = 0; block < t.blocks; ++block) {
    const int stage = block % kStages, row = block * kKeyRows;
    const uint32_t parity = (block / kStages & 1) ^ 1;
    barrier_wait(&sm.keys_free[stage], parity);
    barrier_arrive_expect(&sm.keys_ready[stage], kQueryTiles * kTileBytes);
    for (int i = 0; i < 2; ++i)
      load_box(sm.keys[stage][i], &a.keys, &sm.keys_ready[stage], t.head * 128 + i * 64, row);
    load_box(sm.keys[stage][2], &a.rope, &sm.keys_ready[stage], 0, row);
    barrier_wait(&sm.values_free[stage], parity);
    barrier_arrive_expect(&sm.values_ready[stage], kValueTiles * kTileBytes);
    for (int i = 0; i < kValueTiles; ++i)
      load_box(sm.values[stage][i], &a.values, &sm.values_ready[stage], t.head * 128 + i * 64, row);
  }
}

__device__ __forceinline__ void scores(float (&s)[64], uint64_t q, uint64_t k) {
  asm volatile("" : "+l"(q), "+l"(k));  // or every descriptor is kept in registers across the loop
#pragma unroll
  for (int tile = 0; tile < kQueryTiles; ++tile)
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      uint64_t offset = tile * kTileStep + step * kColumnStep;
      wgmma_bf16<128>(s, q + offset, k + offset, tile != 0 || step != 0);
    }
}

__device__ __forceinline__ void add_values(float (&o)[64], const uint32_t (&p)[8][4], uint64_t v) {
  asm volatile("" : "+l"(v));
#pragma unroll
  for (int step = 0; step < 8; ++step) wgmma_bf16<128, 1>(o, p[step], v + step * kKeyStep, 1);
}

// A thread's part of two rows of one warpgroup's 64, and its running softmax.
template <bool kMasked>
struct Rows {
  const uint32_t* mask[2];  // rows of the bit mask
  int position[2];
  int lane;
  float scale;
  float max[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}, keep[2];
  uint4 bits[2];

  // Called before the wait for the scores, which hides the latency of the load.
  __device__ __forceinline__ void load_mask(int block) {
    if constexpr (kMasked)
      for (int r = 0; r < 2; ++r)
        asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(bits[r].x), "=r"(bits[r].y), "=r"(bits[r].z), "=r"(bits[r].w)
                     : "l"(mask[r] + block * 4));
  }

  __device__ __forceinline__ void hide(float (&s)[64], int block) const {
    const int column = block * kKeyRows + lane % 4 * 2;
    if constexpr (kMasked) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const uint32_t words[4] = {bits[r].x >> (lane % 4 * 2), bits[r].y >> (lane % 4 * 2),
                                   bits[r].z >> (lane % 4 * 2), bits[r].w >> (lane % 4 * 2)};
#pragma unroll
        for (int j = 0; j < 16; ++j)
#pragma unroll
          for (int e = 0; e < 2; ++e)
            if (!(words[j / 4] >> (8 * (j % 4) + e) & 1)) s[4 * j + 2 * r + e] = -INFINITY;
      }
    } else if (block * kKeyRows + kKeyRows - 1 > position[0]) {
#pragma unroll
      for (int i = 0; i < 64; ++i)
        if (column + 8 * (i / 4) + i % 2 > position[i % 4 / 2]) s[i] = -INFINITY;
    }
  }

  // s becomes exp2((s - max) scale); `keep` is what earlier results must be multiplied by.
  __device__ __forceinline__ void softmax(float (&s)[64], int block) {
    hide(s, block);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = max[r];
#pragma unroll
      for (int j = 0; j < 16; ++j) top = fmaxf(top, fmaxf(s[4 * j + 2 * r], s[4 * j + 2 * r + 1]));
      top = quad_max(top);
      keep[r] = decay(max[r], top, scale);
      max[r] = top;
      const float offset = top == -INFINITY ? 0.f : top * scale;
      float total = 0;
#pragma unroll
      for (int j = 0; j < 16; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& x = s[4 * j + 2 * r + e];
          x = exp2f(fmaf(x, scale, -offset));
          total += x;
        }
      sum[r] = sum[r] * keep[r] + total;
    }
  }
};

template <bool kMasked>
__device__ __forceinline__ void attend(const AttendArgs& a, Shared& sm, const Tile& t, int group,
                                       int warp, int lane) {
  const uint64_t q = k_major_descriptor(sm.query, group * 64 * 128);
  const int row = group * 64 + warp * 16 + lane / 4;  // of the tile; the thread's other row is + 8
  Rows<kMasked> rows;
  rows.lane = lane;
  rows.scale = a.scale_log2;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int token = min(t.token + row + 8 * r, a.tokens - 1);
    rows.position[r] = a.first_position + token;
    rows.mask[r] = kMasked ? a.mask + int64_t{token} * a.mask_words : nullptr;
  }
  float s[64], o[64];
  uint32_t p[8][4];

  // phase 1: scores and softmax of block 0
  barrier_wait(&sm.query_ready, 0);
  barrier_wait(&sm.keys_ready[0], 0);
  wgmma_fence();
  scores(s, q, k_major_descriptor(sm.keys[0]));
  wgmma_commit();
  rows.load_mask(0);
#pragma unroll
  for (int i = 0; i < 64; ++i) o[i] = 0;
  wgmma_wait<0>();
  pin_registers(s);
  arrive_warp(&sm.keys_free[0], lane);
  rows.softmax(s, 0);
#pragma unroll
  for (int g = 0; g < 8; ++g) pack_fragment(p[g], s, g);

  // phase 2: scores of each next block, then products of the one before it, softmax under those
  for (int block = 1; block < t.blocks; ++block) {
    const int stage = block % kStages, before = stage ^ 1;
    barrier_wait(&sm.keys_ready[stage], block / kStages & 1);
    wgmma_fence();
    scores(s, q, k_major_descriptor(sm.keys[0], stage * kQueryTiles * kTileBytes));
    wgmma_commit();
    rows.load_mask(block);
    barrier_wait(&sm.values_ready[before], (block - 1) / kStages & 1);
    wgmma_fence();
    add_values(o, p, smem_descriptor(smem_address(sm.values[before]), kTileBytes, 1024, 128));
    wgmma_commit();
    wgmma_wait<1>();
    pin_registers(s);
    arrive_warp(&sm.keys_free[stage], lane);
    rows.softmax(s, block);
    wgmma_wait<0>();
    pin_registers(o);
    arrive_warp(&sm.values_free[before], lane);
    scale_rows(o, rows.keep[0], rows.keep[1]);
#pragma unroll
    for (int g = 0; g < 8; ++g) pack_fragment(p[g], s, g);
  }

  // phase 3: products of the last block
  const int last = (t.blocks - 1) % kStages;
  barrier_wait(&sm.values_ready[last], (t.blocks - 1) / kStages & 1);
  wgmma_fence();
  add_values(o, p, smem_descriptor(smem_address(sm.values[last]), kTileBytes, 1024, 128));
  wgmma_commit();
  wgmma_wait<0>();
  pin_registers(o);

  // phase 4: divide, round, and write through shared memory in full lines. A warp uses the place of
  // its own 16 query rows, which only its warpgroup has read.
  const float top = quad_sum(rows.sum[0]), bottom = quad_sum(rows.sum[1]);
  scale_rows(o, top > 0 ? 1 / top : 0.f, bottom > 0 ? 1 / bottom : 0.f);
  const int first = group * 64 + warp * 16;
#pragma unroll
  for (int g = 0; g < 8; ++g) {
    uint32_t f[4];
    pack_fragment(f, o, g);
    store_fragment(sm.query[g / 4], f, g % 4, first, lane);
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int r = first + 2 * i + lane / 16, chunk = lane % 8;
    if (t.token + r >= a.tokens) continue;
    const uint8_t* tile = sm.query[lane % 16 / 8];
    uint4 v = *reinterpret_cast<const uint4*>(tile + r * 128 + ((chunk ^ (r % 8)) << 4));
    Bf16* to = a.out + (t.token + r) * a.out_token_stride + t.head * 128 + lane % 16 * 8;
    *reinterpret_cast<uint4*>(to) = v;
  }
}

template <bool kMasked>
__global__ void __launch_bounds__(kThreads, 1) mha_kernel(const __grid_constant__ AttendArgs a) {
  extern __shared__ __align__(1024) uint8_t raw[];
  Shared& sm = *reinterpret_cast<Shared*>(raw);
  const int thread = threadIdx.x, group = thread / 128, warp = thread / 32 % 4, lane = thread % 32;
  if (thread == 0) {
    barrier_init(&sm.query_ready, 1);
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&sm.keys_ready[i], 1);
      barrier_init(&sm.values_ready[i], 1);
      barrier_init(&sm.keys_free[i], 8);  // one arrival per math warp
      barrier_init(&sm.values_free[i], 8);
    }
    barrier_init_fence();
  }
  __syncthreads();
  pdl_wait();
  pdl_trigger();
  const Tile t = tile_of(a, static_cast<int>(blockIdx.x));
  if (group < 2) {
    registers_increase<kMathRegisters>();
    attend<kMasked>(a, sm, t, group, warp, lane);
  } else {
    registers_decrease<kProducerRegisters>();
    if (warp == 0 && elect_one()) produce(a, sm, t);
  }
}

}  // namespace fathom::cuda::mha
