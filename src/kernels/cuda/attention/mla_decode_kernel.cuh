// Absorbed attention for few query tokens: one thread block per (64 heads, split, token).
//
// Three warpgroups. `left` forms the scores of a block of 64 keys, takes their softmax and adds up
// output columns 0..255; `right` adds up columns 256..511 from the weights that left lays down in
// shared memory (the 64 x 512 float32 output fills half the register file, so it must be shared);
// the third gathers the rows of the next blocks. A block's row is key and value at once.
//
// Numerics
//   in   q bf16; latent rows bf16, or e4m3 * scale rounded to bf16 (exact when the scale is a power
//        of two). Codes of NaN read as 480 next to such a scale: the rotary part, in bf16, carries
//        the NaN of a broken row.
//   QK   float32 accumulation over 576; scale * log2(e) applied inside the exponent
//   P    exp2(score - running maximum), 0 below 2^-126; the denominator adds the float32 values,
//        PV their bf16 rounding
//   PV   float32; times 1 / denominator and rounded once to bf16, or left as float32 partial sums
//   fp8 columns come in the order 0, 2, 1, 3 of every four, as widening leaves them; the query is
//   laid out alike, and the order undone at the end.
#pragma once

#include <cuda_bf16.h>

#include "kernels/cuda/attention/exp2.cuh"
#include "kernels/cuda/attention/mla_decode_gather.cuh"
#include "kernels/cuda/attention/mla_decode_shared.cuh"
#include "kernels/cuda/prim/wgmma.h"

namespace fathom::cuda::decode {

// Together at most the 3 x 168 registers a thread that the block starts with. A warpgroup that
// asked for more would wait for ever.
constexpr int kLeftRegisters = 208, kRightRegisters = 160, kGatherRegisters = 136;
static_assert(kLeftRegisters + kRightRegisters + kGatherRegisters <= 3 * 168);
constexpr int kBarrierQuery = 1, kBarrierInverse = 2;

__device__ __forceinline__ uint32_t pack(float low, float high) {
  __nv_bfloat162 two = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<uint32_t*>(&two);
}

// q of this tile's heads into swizzled tiles; rows past the last head are zeros. `permute`: columns
// of the latent part in the order the fp8 rows are widened to.
__device__ __forceinline__ void load_query(const Args& a, int token, int first_head, bool permute,
                                           Shared& s) {
  constexpr int kChunks = 8 * kTiles, kPerThread = kTileHeads * kChunks / kMathThreads;
  constexpr int kAtOnce = 9;
  const Bf16* latent = a.p.q_latent + int64_t{token} * a.p.heads * kLatent;
  const Bf16* rope = a.p.q_rope + token * a.p.q_rope_token_stride;
#pragma unroll 1
  for (int i = 0; i < kPerThread; i += kAtOnce) {
    uint4 v[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int index = (i + j) * kMathThreads + threadIdx.x;
      const int row = index / kChunks, chunk = index % kChunks, head = first_head + row;
      const Bf16* from = chunk < kLatent / 8
                             ? latent + int64_t{head} * kLatent + chunk * 8
                             : rope + head * a.p.q_rope_head_stride + (chunk - kLatent / 8) * 8;
      v[j] = {0, 0, 0, 0};
      if (head < a.p.heads) v[j] = load_row16(reinterpret_cast<const std::byte*>(from));
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int index = (i + j) * kMathThreads + threadIdx.x;
      const int row = index / kChunks, chunk = index % kChunks;
      uint4 x = v[j];
      if (permute && chunk < kLatent / 8)
        x = {__byte_perm(v[j].x, v[j].y, 0x5410), __byte_perm(v[j].x, v[j].y, 0x7632),
             __byte_perm(v[j].z, v[j].w, 0x5410), __byte_perm(v[j].z, v[j].w, 0x7632)};
      store16(smem_address(s.query[chunk / 8]) + tile_offset(row, chunk % 8), x.x, x.y, x.z, x.w);
    }
  }
}

// scores = q k^T over all 576 columns.
__device__ __forceinline__ void score_block(float (&scores)[32], uint64_t query, uint64_t keys) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const uint64_t offset = (tile * kTileBytes + step * 32) >> 4;
      wgmma_bf16<64>(scores, query + offset, keys + offset, tile != 0 || step != 0);
    }
}

// Values: 256 columns = four tiles kTileBytes apart, keys in groups of 8 rows 1024 bytes apart.
__device__ __forceinline__ uint64_t value_descriptor(const void* tile) {
  return smem_descriptor(smem_address(tile), kTileBytes, 1024, 128);
}
constexpr uint64_t kValueStep = (16 * 128) >> 4;  // 16 keys

__device__ __forceinline__ void scale_rows(float (&out)[128], float top, float bottom) {
#pragma unroll
  for (int j = 0; j < 32; ++j) {
    out[4 * j] *= top;
    out[4 * j + 1] *= top;
    out[4 * j + 2] *= bottom;
    out[4 * j + 3] *= bottom;
  }
}

// Scales the rows, unless both factors are one for the whole warp.
__device__ __forceinline__ void decay_rows(float (&out)[128], float top, float bottom) {
  if (__any_sync(~0u, top != 1.f || bottom != 1.f)) scale_rows(out, top, bottom);
}

// Which rows and columns of an output half a thread holds (prim/wgmma.h).
struct OutPlace {
  int row, column;  // rows `row` and `row` + 8, columns `column` + 8 j and the one after
  __device__ __forceinline__ OutPlace()
      : row(threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4), column(threadIdx.x % 4 * 2) {}
};

// Half `half` of the output, finished: rounded, in natural column order.
template <bool kFp8>
__device__ __forceinline__ void store_out(const Args& a, const float (&out)[128], float top,
                                          float bottom, int token, int first_head, int half) {
  const OutPlace at;
#pragma unroll
  for (int j = 0; j < 64; ++j) {
    const float scale = j & 1 ? bottom : top;
    uint32_t own = pack(out[2 * j] * scale, out[2 * j + 1] * scale);
    if (kFp8) {
      // Of every four columns, even lanes hold 0 and 2, their neighbours 1 and 3.
      uint32_t other = __shfl_xor_sync(~0u, own, 1);
      own = threadIdx.x & 1 ? __byte_perm(own, other, 0x3276) : __byte_perm(own, other, 0x5410);
    }
    const int head = first_head + at.row + (j & 1) * 8;
    if (head < a.p.heads) {
      Bf16* to = a.p.out + (int64_t{token} * a.p.heads + head) * kLatent + half * 256 + j / 2 * 8 +
                 at.column;
      *reinterpret_cast<uint32_t*>(to) = own;
    }
  }
}

__device__ __forceinline__ void store_partial(const Args& a, const float (&out)[128], int row,
                                              int heads_left, int half) {
  const OutPlace at;
  float* to = a.partial + (int64_t{row} + at.row) * kLatent + half * 256 + at.column;
#pragma unroll
  for (int j = 0; j < 64; ++j)
    if (at.row + (j & 1) * 8 < heads_left)
      *reinterpret_cast<float2*>(to + (j & 1) * 8 * kLatent + j / 2 * 8) = {out[2 * j],
                                                                            out[2 * j + 1]};
}

// Scores, softmax and the left half of the output.
template <bool kFp8>
__device__ __forceinline__ void left(const Args& a, const Range& range, int token, int first_head,
                                     int stats_row, Shared& s) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const OutPlace at;
  const int tail = tail_of(range);
  uint64_t query = k_major_descriptor(s.query);
  float out[128], scores[32];
#pragma unroll
  for (int i = 0; i < 128; ++i) out[i] = 0;
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};

  barrier_wait(&s.full[0], 0);
  if (!kFp8) fence_async_shared();
  wgmma_fence();
  score_block(scores, query, k_major_descriptor(s.keys[0]));
  wgmma_commit();
  wgmma_wait<0>();
  pin_registers(scores);

  for (int i = 0; i < range.blocks; ++i) {
    const int buffer = i & 1;
    const bool last = i + 1 == range.blocks;
    // Hides the descriptor's origin: otherwise the compiler keeps its 36 steps in registers across
    // the loop.
    asm volatile("" : "+l"(query));

    // phase 1: softmax weights, in units of log2.
    if (last) {
#pragma unroll
      for (int j = 0; j < 32; ++j)
        if (j / 4 * 8 + at.column + (j & 1) >= tail) scores[j] = -INFINITY;
    }
    float decay[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float greatest = scores[2 * r];
#pragma unroll
      for (int j = 0; j < 8; ++j)
        greatest = fmaxf(greatest, fmaxf(scores[4 * j + 2 * r], scores[4 * j + 2 * r + 1]));
      greatest = fmaxf(greatest, __shfl_xor_sync(~0u, greatest, 1));
      greatest = fmaxf(greatest, __shfl_xor_sync(~0u, greatest, 2));
      const float now = fmaxf(top[r], greatest * a.scale_log2);
      decay[r] = exp2f(top[r] - now);
      top[r] = now;
      float added = 0;
#pragma unroll
      for (int j = 0; j < 8; ++j)
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          float& x = scores[4 * j + 2 * r + k];
          x = exp2_weight(fmaf(x, a.scale_log2, -now));
          added += x;
        }
      sum[r] = sum[r] * decay[r] + added;
    }

    // phase 2: weights and decay for the other half.
    uint32_t weights[4][4];
    const uint32_t weights_to = smem_address(s.keys[buffer][8]);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
#pragma unroll
      for (int k = 0; k < 4; ++k)
        weights[step][k] = pack(scores[8 * step + 2 * k], scores[8 * step + 2 * k + 1]);
      const uint32_t to = weights_to + tile_offset(warp * 16 + lane % 16, 2 * step + lane / 16);
      asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to),
                   "r"(weights[step][0]), "r"(weights[step][1]), "r"(weights[step][2]),
                   "r"(weights[step][3])
                   : "memory");
    }
    if (lane % 4 == 0) {
      s.decay[buffer][at.row] = decay[0];
      s.decay[buffer][at.row + 8] = decay[1];
    }
    fence_async_shared();
    __syncwarp();
    if (lane == 0) barrier_arrive(&s.weighed[buffer]);

    // phase 3: this half's sum; behind it the scores of the next block.
    decay_rows(out, decay[0], decay[1]);
    pin_registers(out);
    wgmma_fence();
    const uint64_t values = value_descriptor(s.keys[buffer][0]);
#pragma unroll
    for (int step = 0; step < 4; ++step)
      wgmma_bf16<256, 1>(out, weights[step], values + step * kValueStep, 1);
    wgmma_commit();
    if (!last) {
      barrier_wait(&s.full[buffer ^ 1], ((i + 1) / kBuffers) & 1);
      if (!kFp8) fence_async_shared();
      pin_registers(scores);
      wgmma_fence();
      score_block(scores, query, k_major_descriptor(s.keys[buffer ^ 1]));
      wgmma_commit();
      wgmma_wait<1>();
      if (lane == 0) barrier_arrive(&s.empty[buffer]);
    }
    wgmma_wait<0>();
    pin_registers(scores);
    pin_registers(out);
  }

  // phase 4: the row sums, and out.
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
    sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
  }
  if (a.splits > 1) {
    const int heads_left = a.p.heads - first_head;
    if (lane % 4 == 0) {
      if (at.row < heads_left) a.stats[stats_row + at.row] = {top[0], sum[0]};
      if (at.row + 8 < heads_left) a.stats[stats_row + at.row + 8] = {top[1], sum[1]};
    }
    store_partial(a, out, stats_row, heads_left, 0);
  } else {
    const float inverse[2] = {1.f / sum[0], 1.f / sum[1]};
    if (lane % 4 == 0) {
      s.inverse[at.row] = inverse[0];
      s.inverse[at.row + 8] = inverse[1];
    }
    named_arrive(kBarrierInverse, kMathThreads);
    store_out<kFp8>(a, out, inverse[0], inverse[1], token, first_head, 0);
  }
}

// The right half of the output, from the weights in shared memory.
template <bool kFp8>
__device__ __forceinline__ void right(const Args& a, const Range& range, int token, int first_head,
                                      int stats_row, Shared& s) {
  const int lane = threadIdx.x % 32;
  const OutPlace at;
  float out[128];
#pragma unroll
  for (int i = 0; i < 128; ++i) out[i] = 0;
  for (int i = 0; i < range.blocks; ++i) {
    const int buffer = i & 1, parity = (i / kBuffers) & 1;
    barrier_wait(&s.full[buffer], parity);
    barrier_wait(&s.weighed[buffer], parity);
    if (!kFp8) fence_async_shared();
    decay_rows(out, s.decay[buffer][at.row], s.decay[buffer][at.row + 8]);
    pin_registers(out);
    wgmma_fence();
    const uint64_t weights = k_major_descriptor(s.keys[buffer][8]);
    const uint64_t values = value_descriptor(s.keys[buffer][4]);
#pragma unroll
    for (int step = 0; step < 4; ++step)
      wgmma_bf16<256, 0, 1>(out, weights + step * 2, values + step * kValueStep, 1);
    wgmma_commit();
    wgmma_wait<0>();
    pin_registers(out);
    if (lane == 0) barrier_arrive(&s.empty[buffer]);
  }
  if (a.splits > 1) {
    store_partial(a, out, stats_row, a.p.heads - first_head, 1);
  } else {
    named_sync(kBarrierInverse, kMathThreads);
    store_out<kFp8>(a, out, s.inverse[at.row], s.inverse[at.row + 8], token, first_head, 1);
  }
}

template <bool kFp8>
__global__ void __launch_bounds__(kThreads, 1) split_kernel(const __grid_constant__ Args a) {
  extern __shared__ uint8_t raw[];
  Shared& s = *reinterpret_cast<Shared*>(raw);
  const int first_head = static_cast<int>(blockIdx.x) * kTileHeads;
  const int split = static_cast<int>(blockIdx.y),
            token = a.first_token + static_cast<int>(blockIdx.z);
  const int stats_row = (static_cast<int>(blockIdx.z) * a.splits + split) * a.p.heads + first_head;
  const int group = threadIdx.x / 128;

  // phase 1: barriers, then what the step before has written.
  if (threadIdx.x == 0) {
    for (int b = 0; b < kBuffers; ++b) {
      barrier_init(&s.full[b], kFp8 ? 4 : 128);
      barrier_init(&s.empty[b], 8);
      barrier_init(&s.weighed[b], 4);
    }
    barrier_init_fence();
  }
  __syncthreads();
  pdl_wait();
  pdl_trigger();
  const Range range = range_of(a, token, split);
  if (range.blocks <= 0) {
    // An empty split is marked by a maximum of -inf. A token without any key does not occur.
    if (threadIdx.x < kTileHeads && first_head + threadIdx.x < a.p.heads && a.splits > 1)
      a.stats[stats_row + threadIdx.x] = {-INFINITY, 0.f};
    return;
  }

  // phase 2: roles.
  if (group == 2) {
    registers_decrease<kGatherRegisters>();
    if constexpr (kFp8)
      gather_fp8(a, range, s);
    else
      gather_bf16(a, range, s);
  } else if (group == 0) {
    registers_increase<kLeftRegisters>();
    load_query(a, token, first_head, kFp8, s);
    fence_async_shared();
    named_sync(kBarrierQuery, kMathThreads);
    left<kFp8>(a, range, token, first_head, stats_row, s);
  } else {
    registers_decrease<kRightRegisters>();
    load_query(a, token, first_head, kFp8, s);
    fence_async_shared();
    named_sync(kBarrierQuery, kMathThreads);
    right<kFp8>(a, range, token, first_head, stats_row, s);
  }
}

template <bool kFp8>
void launch_splits(const Args& a, int tokens, const Launch& l) {
  const int tiles = (a.p.heads + kTileHeads - 1) / kTileHeads;
  dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(a.splits),
            static_cast<unsigned>(tokens));
  launch_kernel(l, split_kernel<kFp8>, grid, dim3(kThreads), sizeof(Shared), 1, a);
}

}  // namespace fathom::cuda::decode
