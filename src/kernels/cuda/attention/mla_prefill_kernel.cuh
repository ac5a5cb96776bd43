// Absorbed attention for many query tokens: one thread block per (token, 64 heads).
//
// The 64 x 512 float32 output fills half the register file, so two warpgroups share it: `left` owns
// output columns 0..255 and the scores of even key blocks, `right` owns columns 256..511 and the
// scores of odd ones. Each multiplies its own weights P from registers and the other's from shared
// memory, so the softmax of one runs under the matrix work of the other. A third warpgroup gathers
// key rows.
//
// Numerics
//   in   q bf16, latent rows bf16 (a row is both key and value)
//   QK   float32 accumulation over 576, scale applied inside the exponent
//   P    exp2 of the float32 score against the running maximum, 0 below 2^-126; the sum takes the
//        float32 values, the product their bf16 rounding
//   PV   float32 accumulation, divided by the sum, rounded once to bf16
//   Key blocks follow the token's own list in order, so a row's bits depend on that list alone.
//   A token without any key gets zeros.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention/exp2.cuh"
#include "kernels/cuda/attention/fragments.cuh"
#include "kernels/cuda/attention/mla_prefill_gather.cuh"
#include "kernels/cuda/prim/barrier.h"
#include "kernels/cuda/prim/launch.h"
#include "kernels/cuda/prim/wgmma.h"

namespace fathom::cuda {
namespace prefill {

constexpr uint64_t kTileStep = kTileBytes >> 4;  // in descriptor units of 16 bytes
constexpr uint64_t kColumnStep = 32 >> 4;        // 16 bf16 along K of a K-major tile
constexpr uint64_t kKeyStep = (16 * 128) >> 4;   // 16 keys along K of a value tile

__device__ __forceinline__ uint64_t value_descriptor(const void* tile) {
  return smem_descriptor(smem_address(tile), kTileBytes, 1024, 128);
}

// s (+)= q k^T over tiles [first, first + count) of 64 columns.
template <int kFirst, int kCount>
__device__ __forceinline__ void score_tiles(float (&s)[32], uint64_t q, uint64_t k, bool add) {
  // Hides the descriptors' origin: otherwise the compiler keeps all 72 of them in registers across
  // the loop and spills.
  asm volatile("" : "+l"(q), "+l"(k));
#pragma unroll
  for (int tile = kFirst; tile < kFirst + kCount; ++tile)
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      uint64_t offset = tile * kTileStep + step * kColumnStep;
      wgmma_bf16<64>(s, q + offset, k + offset, add || tile != kFirst || step != 0);
    }
}

// o += p v for 64 keys; p from registers, or from a K-major tile.
__device__ __forceinline__ void add_values(float (&o)[128], const uint32_t (&p)[4][4], uint64_t v) {
  asm volatile("" : "+l"(v));
#pragma unroll
  for (int step = 0; step < 4; ++step) wgmma_bf16<256, 1>(o, p[step], v + step * kKeyStep, 1);
}
__device__ __forceinline__ void add_values(float (&o)[128], uint64_t p, uint64_t v) {
  asm volatile("" : "+l"(p), "+l"(v));
#pragma unroll
  for (int step = 0; step < 4; ++step)
    wgmma_bf16<256, 0, 1>(o, p + step * kColumnStep, v + step * kKeyStep, 1);
}

// Which of the 64 keys of a block exist: they are a prefix, since -1 entries come last.
struct BlockKeys {
  int low = 0, high = 0;  // this lane's entries of `picked`

  __device__ __forceinline__ void load(const PrefillArgs& a, const int32_t* list, int keys,
                                       int block, int lane) {
    int at = block * kKeys + lane;
    low = at < keys ? 0 : -1;
    high = at + 32 < keys ? 0 : -1;
    // volatile: these loads belong in front of the wait for the scores
    if (a.picked && low == 0) asm volatile("ld.global.s32 %0, [%1];" : "=r"(low) : "l"(list + at));
    if (a.picked && high == 0)
      asm volatile("ld.global.s32 %0, [%1];" : "=r"(high) : "l"(list + at + 32));
  }
  __device__ __forceinline__ int count() const {
    return __popc(__ballot_sync(~0u, low >= 0)) + __popc(__ballot_sync(~0u, high >= 0));
  }
};

// Hides columns >= count from the softmax and returns the maxima of the thread's two rows.
__device__ __forceinline__ void mask_and_max(float (&s)[32], int count, int lane, float& top,
                                             float& bottom) {
  if (count < kKeys) {
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      int column = 8 * (i / 4) + (lane % 4) * 2 + i % 2;
      if (column >= count) s[i] = -INFINITY;
    }
  }
  top = bottom = -INFINITY;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    top = fmaxf(top, fmaxf(s[4 * j], s[4 * j + 1]));
    bottom = fmaxf(bottom, fmaxf(s[4 * j + 2], s[4 * j + 3]));
  }
  top = quad_max(top);
  bottom = quad_max(bottom);
}

// s becomes exp2((s - max) scale); returns this thread's share of the row sums.
__device__ __forceinline__ void exponentials(float (&s)[32], float max_top, float max_bottom,
                                             float scale, float& sum_top, float& sum_bottom) {
  float offset_top = max_top == -INFINITY ? 0.f : max_top * scale;
  float offset_bottom = max_bottom == -INFINITY ? 0.f : max_bottom * scale;
  sum_top = sum_bottom = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float& a = s[4 * j + e];
      float& b = s[4 * j + 2 + e];
      a = exp2_weight(fmaf(a, scale, -offset_top));
      b = exp2_weight(fmaf(b, scale, -offset_bottom));
      sum_top += a;
      sum_bottom += b;
    }
  }
}

// A half block has arrived: what cp.async wrote must be visible to the tensor cores.
__device__ __forceinline__ void wait_half(Shared& sm, int block, int half, int pair) {
  barrier_wait(&sm.ready[block][half], pair & 1);
  fence_async_shared();
}

// Warpgroup of output columns 0..255 and of the scores of even blocks.
__device__ __forceinline__ void run_left(const PrefillArgs& a, Shared& sm, const Token& token,
                                         float (&o)[128], float (&sum)[2], int warp, int lane) {
  const uint64_t q = k_major_descriptor(sm.q), k = k_major_descriptor(sm.keys[0]);
  const uint64_t v_even = value_descriptor(sm.keys[0]), v_odd = value_descriptor(sm.keys[1]);
  const uint64_t p_odd = k_major_descriptor(sm.p_odd);
  const int row = warp * 16 + lane / 4;
  float max_top = -INFINITY, max_bottom = -INFINITY;
  float s[32];
  uint32_t p[4][4];

  // A pair of blocks from the scores of the even one on. Ends with a product in flight; the last
  // pair is peeled off the loop, because a branch there would make ptxas serialise the wgmmas.
  BlockKeys block;
  auto combine = [&] {
    // Softmax of the even block against the maximum so far.
    float top, bottom, sum_top, sum_bottom;
    mask_and_max(s, block.count(), lane, top, bottom);
    top = fmaxf(top, max_top);
    bottom = fmaxf(bottom, max_bottom);
    if (lane % 4 == 0) {
      sm.max_even[row] = top;
      sm.max_even[row + 8] = bottom;
    }
    named_arrive(kMaxEven, kMathThreads);
    exponentials(s, top, bottom, a.scale_log2, sum_top, sum_bottom);
    float keep_top = decay(max_top, top, a.scale_log2);
    float keep_bottom = decay(max_bottom, bottom, a.scale_log2);
    sum[0] = sum[0] * keep_top + sum_top;
    sum[1] = sum[1] * keep_bottom + sum_bottom;
#pragma unroll
    for (int g = 0; g < 4; ++g) pack_fragment(p[g], s, g);
    scale_rows(o, keep_top, keep_bottom);

    // Own weights times the left half of the even block.
    wgmma_fence();
    add_values(o, p, v_even);
    wgmma_commit();
    wgmma_wait<0>();
    pin_registers(o);
    arrive_warp(&sm.free[0][0], lane);

    // The odd block may have raised the maximum: P and o are scaled to it, then P is handed over.
    named_sync(kOddReady, kMathThreads);
    max_top = sm.max_both[row];
    max_bottom = sm.max_both[row + 8];
    keep_top = decay(top, max_top, a.scale_log2);
    keep_bottom = decay(bottom, max_bottom, a.scale_log2);
#pragma unroll
    for (int i = 0; i < 32; ++i) s[i] *= i % 4 < 2 ? keep_top : keep_bottom;
#pragma unroll
    for (int g = 0; g < 4; ++g) {
      pack_fragment(p[g], s, g);
      store_fragment(sm.keys[0][8], p[g], g, warp * 16, lane);
    }
    fence_async_shared();
    named_arrive(kEvenReady, kMathThreads);
    sum[0] *= keep_top;
    sum[1] *= keep_bottom;
    scale_rows(o, keep_top, keep_bottom);

    // The other's weights times the left half of the odd block; then the next scores behind it.
    pin_registers(s);
    pin_registers(o);
    wgmma_fence();
    add_values(o, p_odd, v_odd);
    wgmma_commit();
  };

  wait_half(sm, 0, 0, 0);
  wgmma_fence();
  score_tiles<0, 4>(s, q, k, false);
  wait_half(sm, 0, 1, 0);
  wgmma_fence();
  score_tiles<4, 5>(s, q, k, true);
  wgmma_commit();
  block.load(a, token.list, token.keys, 0, lane);
#pragma unroll
  for (int i = 0; i < 128; ++i) o[i] = 0;
  wgmma_wait<0>();
  pin_registers(s);
  for (int pair = 1; pair < token.pairs; ++pair) {
    combine();
    wait_half(sm, 0, 0, pair);
    wgmma_fence();
    score_tiles<0, 4>(s, q, k, false);
    wgmma_commit();
    wgmma_wait<1>();
    pin_registers(o);
    arrive_warp(&sm.free[1][0], lane);
    wait_half(sm, 0, 1, pair);
    wgmma_fence();
    score_tiles<4, 5>(s, q, k, true);
    wgmma_commit();
    block.load(a, token.list, token.keys, 2 * pair, lane);
    wgmma_wait<0>();
    pin_registers(s);
  }
  combine();
  wgmma_wait<0>();
  pin_registers(o);
}

// Warpgroup of output columns 256..511 and of the scores of odd blocks.
__device__ __forceinline__ void run_right(const PrefillArgs& a, Shared& sm, const Token& token,
                                          float (&o)[128], float (&sum)[2], int warp, int lane) {
  const uint64_t q = k_major_descriptor(sm.q), k = k_major_descriptor(sm.keys[1]);
  const uint64_t v_even = value_descriptor(sm.keys[0][4]), v_odd = value_descriptor(sm.keys[1][4]);
  const uint64_t p_even = k_major_descriptor(sm.keys[0][8]);
  const int row = warp * 16 + lane / 4;
  float max_top = -INFINITY, max_bottom = -INFINITY;
  float s[32];
  uint32_t p[4][4];
#pragma unroll
  for (int i = 0; i < 128; ++i) o[i] = 0;

  for (int pair = 0; pair < token.pairs; ++pair) {
    // The right half first: it is the first of this block to be free for a refill.
    wait_half(sm, 1, 1, pair);
    wgmma_fence();
    score_tiles<4, 5>(s, q, k, false);
    wait_half(sm, 1, 0, pair);
    wgmma_fence();
    score_tiles<0, 4>(s, q, k, true);
    wgmma_commit();
    BlockKeys block;
    block.load(a, token.list, token.keys, 2 * pair + 1, lane);
    wgmma_wait<0>();
    pin_registers(s);

    // Softmax of the odd block against the maximum of everything up to and including it.
    float top, bottom, sum_top, sum_bottom;
    mask_and_max(s, block.count(), lane, top, bottom);
    named_sync(kMaxEven, kMathThreads);
    top = fmaxf(top, sm.max_even[row]);
    bottom = fmaxf(bottom, sm.max_even[row + 8]);
    exponentials(s, top, bottom, a.scale_log2, sum_top, sum_bottom);
#pragma unroll
    for (int g = 0; g < 4; ++g) {
      pack_fragment(p[g], s, g);
      store_fragment(sm.p_odd, p[g], g, warp * 16, lane);
    }
    if (lane % 4 == 0) {
      sm.max_both[row] = top;
      sm.max_both[row + 8] = bottom;
    }
    fence_async_shared();
    named_arrive(kOddReady, kMathThreads);
    float keep_top = decay(max_top, top, a.scale_log2);
    float keep_bottom = decay(max_bottom, bottom, a.scale_log2);
    sum[0] = sum[0] * keep_top + sum_top;
    sum[1] = sum[1] * keep_bottom + sum_bottom;
    max_top = top;
    max_bottom = bottom;
    scale_rows(o, keep_top, keep_bottom);

    // Own weights times the right half of the odd block, then the other's times the even one's.
    wgmma_fence();
    add_values(o, p, v_odd);
    wgmma_commit();
    named_sync(kEvenReady, kMathThreads);
    wgmma_fence();
    add_values(o, p_even, v_even);
    wgmma_commit();
    wgmma_wait<1>();
    arrive_warp(&sm.free[1][1], lane);
    wgmma_wait<0>();
    pin_registers(o);
    arrive_warp(&sm.free[0][1], lane);
  }
}

// Query rows of the tile into shared memory; heads that do not exist are zeros.
__device__ __forceinline__ void load_query(const PrefillArgs& a, Shared& sm, int token, int head,
                                           int thread) {
  for (int i = thread; i < kHeads * kTiles * 8; i += kMathThreads) {
    int row = i / (kTiles * 8), tile = i / 8 % kTiles, chunk = i % 8;
    bool live = head + row < a.heads;
    int h = live ? head + row : head;
    const Bf16* from =
        tile < 8 ? a.q_latent + (int64_t{token} * a.heads + h) * 512 + tile * 64 + chunk * 8
                 : a.q_rope + token * a.q_rope_token_stride + h * a.q_rope_head_stride + chunk * 8;
    uint32_t to = smem_address(sm.q[tile]) + row * 128 + ((chunk ^ (row % 8)) << 4);
    copy_async(to, from, live ? 16 : 0);
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
  fence_async_shared();
  named_sync(kMathStart, kMathThreads);
}

// Divides by the sum, rounds, and writes 64 rows x 256 columns through shared memory (the place of
// the query, whose last scores are done) in full lines.
__device__ __forceinline__ void write_output(const PrefillArgs& a, Shared& sm, float (&o)[128],
                                             float (&sum)[2], int token, int head, int group,
                                             int warp, int lane) {
  const int row = warp * 16 + lane / 4;
  float top = quad_sum(sum[0]), bottom = quad_sum(sum[1]);
  if (lane % 4 == 0) {
    sm.sum[group][row] = top;
    sm.sum[group][row + 8] = bottom;
  }
  named_sync(kSums, kMathThreads);
  top = sm.sum[0][row] + sm.sum[1][row];
  bottom = sm.sum[0][row + 8] + sm.sum[1][row + 8];
  scale_rows(o, top > 0 ? 1 / top : 0.f, bottom > 0 ? 1 / bottom : 0.f);
#pragma unroll
  for (int g = 0; g < 16; ++g) {
    uint32_t a4[4];
    pack_fragment(a4, o, g);
    store_fragment(sm.q[group * 4 + g / 4], a4, g % 4, warp * 16, lane);
  }
  __syncwarp();  // a warp writes and reads back its own 16 rows only
#pragma unroll 4
  for (int i = 0; i < 16; ++i) {
    int r = warp * 16 + i;
    if (head + r >= a.heads) break;
    const uint8_t* tile = sm.q[group * 4 + lane / 8];
    uint4 v = *reinterpret_cast<const uint4*>(tile + r * 128 + ((lane % 8 ^ (r % 8)) << 4));
    Bf16* to = a.out + (int64_t{token} * a.heads + head + r) * 512 + group * 256 + lane * 8;
    *reinterpret_cast<uint4*>(to) = v;
  }
}

__global__ void __launch_bounds__(kThreads, 1)
    mla_prefill_kernel(const __grid_constant__ PrefillArgs a) {
  extern __shared__ __align__(1024) uint8_t raw[];
  Shared& sm = *reinterpret_cast<Shared*>(raw);
  const int thread = threadIdx.x, group = thread / 128, warp = thread / 32 % 4, lane = thread % 32;
  const int head_tiles = (a.heads + kHeads - 1) / kHeads;
  const int head = static_cast<int>(blockIdx.x) % head_tiles * kHeads;
  const int index = static_cast<int>(blockIdx.x) / head_tiles;

  if (thread == 0) {
    for (int block = 0; block < 2; ++block)
      for (int half = 0; half < 2; ++half) {
        barrier_init(&sm.ready[block][half], kProducerThreads);
        barrier_init(&sm.free[block][half], 4);  // one arrival per warp of the last reader
      }
    barrier_init_fence();
  }
  __syncthreads();
  pdl_wait();
  pdl_trigger();

  PrefillRows rows = prefill_rows(a, index);
  Token token;
  token.index = index;
  token.keys = a.positions[token.index] + 1;
  if (a.picked) token.keys = min(token.keys, a.topk);
  token.pairs = (token.keys + 2 * kKeys - 1) / (2 * kKeys);
  token.list = a.picked ? a.picked + int64_t{token.index} * a.topk : nullptr;

  if (group == 0) {
    registers_increase<kMathRegisters>();
    float o[128], sum[2] = {0, 0};
    load_query(a, sm, token.index, head, thread);
    run_left(a, sm, token, o, sum, warp, lane);
    write_output(a, sm, o, sum, token.index, head, 0, warp, lane);
  } else if (group == 1) {
    registers_increase<kMathRegisters>();
    float o[128], sum[2] = {0, 0};
    load_query(a, sm, token.index, head, thread);
    run_right(a, sm, token, o, sum, warp, lane);
    write_output(a, sm, o, sum, token.index, head, 1, warp, lane);
  } else {
    registers_decrease<kProducerRegisters>();
    produce(a, sm, token, rows, thread % 128);
  }
}

}  // namespace prefill
}  // namespace fathom::cuda
