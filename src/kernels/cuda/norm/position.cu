#include "kernels/cuda/norm/position.h"

#include <algorithm>
#include <cmath>

#include "kernels/cuda/norm/lanes.cuh"
#include "numerics/rope.h"

// Numerics, all parts
//   norms      f32 sums in an order fixed by the lane layout, correctly rounded root and division
//   rope       products and sums rounded one by one (no fma), like the host's; then bf16
//   rotation   Hadamard butterflies in f32 in the order of numerics/hadamard.h, then bf16
//   codes      numerics/fp8.h bit for bit, of the bf16-rounded value
namespace fathom::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kPairs = KernelDims::kRope / 2;
constexpr int kIndexLanes = KernelDims::kIndex / kLaneValues;  // 16 lanes hold an indexer vector
constexpr int kIndexRows = kThreads / kIndexLanes;             // of a CTA
constexpr int kRopeLanes = KernelDims::kRope / kLaneValues;
constexpr int kRopeTurns = 4;  // vectors a thread keeps in flight
constexpr float kIndexNormEps = 1e-6f;

// The kernel's CTAs, part after part. The parts with a reduction come first: they take longest.
struct PositionGrid {
  int latent, index_key, index_query, rope_query;
  // Square roots are the host's: they are slow here, and these are the reference's bits.
  float index_scale;  // 128^-0.5, of the rotation and of the head weights
  float head_scale;   // heads^-0.5
};

int blocks_of(int64_t items, int64_t per_block) {
  return static_cast<int>((items + per_block - 1) / per_block);
}

PositionGrid plan_grid(const PositionParams& p) {
  PositionGrid g = {};
  g.index_scale = 1.0f / std::sqrt(static_cast<float>(KernelDims::kIndex));
  g.head_scale = 1.0f / std::sqrt(static_cast<float>(std::max(p.index_query.heads, 1)));
  if (p.latent.kv_a) g.latent = blocks_of(p.tokens, kWarps);
  if (p.index_key.k) g.index_key = blocks_of(p.tokens, kIndexRows);
  if (p.index_query.q)
    g.index_query = blocks_of(int64_t{p.tokens} * p.index_query.heads, kIndexRows);
  if (p.rope_query.q)
    g.rope_query =
        blocks_of(int64_t{p.tokens} * p.rope_query.heads * kRopeLanes, kThreads * kRopeTurns);
  return g;
}

__device__ __forceinline__ Pair rotate_rounded(Pair p, float cos, float sin) {
  return {__fsub_rn(__fmul_rn(p.a, cos), __fmul_rn(p.b, sin)),
          __fadd_rn(__fmul_rn(p.a, sin), __fmul_rn(p.b, cos))};
}

__device__ __forceinline__ int64_t cache_row(const PositionParams& p, int token, int position) {
  const int32_t* table = p.page_tables + int64_t{p.sequence_of[token]} * p.max_pages;
  return row_of(table, position);
}

// One warp a token: lane l holds latent values 16 l .. 16 l + 15 and rope pair l.
__device__ __forceinline__ void append_latent(const PositionParams& p, int block) {
  const LatentPart& part = p.latent;
  const int lane = threadIdx.x % 32, token = block * kWarps + threadIdx.x / 32;
  if (token >= p.tokens) return;  // the whole warp
  constexpr int kLatent = KernelDims::kLatent, kHeld = kLatent / 32;
  const Bf16* x = part.kv_a + token * part.stride;
  uint4 raw[2] = {load_vector(x + lane * kHeld), load_vector(x + lane * kHeld + kLaneValues)};
  uint32_t pair = *reinterpret_cast<const uint32_t*>(x + kLatent + 2 * lane);
  const int64_t position = p.positions[token];
  float cos = p.cos[position * kPairs + lane], sin = p.sin[position * kPairs + lane];
  const int64_t row = cache_row(p, token, static_cast<int>(position));

  float v[2][kLaneValues], square = 0.0f;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    unpack(raw[i], v[i]);
#pragma unroll
    for (int j = 0; j < kLaneValues; ++j) square = fmaf(v[i][j], v[i][j], square);
  }
  float inverse = inverse_rms(sum_over<32>(square), kLatent, part.eps);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float gain[kLaneValues];
    load_floats(part.gain + lane * kHeld + i * kLaneValues, gain);
#pragma unroll
    for (int j = 0; j < kLaneValues; ++j) v[i][j] = gain[j] * (v[i][j] * inverse);
    raw[i] = pack(v[i]);
    unpack(raw[i], v[i]);
  }
  Pair turned = rotate_rounded({float_of(pair << 16), float_of(pair & 0xFFFF0000u)}, cos, sin);
  uint32_t rope = round_pair(turned.a, turned.b);

  if (!part.fp8) {
    Bf16* to = reinterpret_cast<Bf16*>(part.cache) + row * (kLatent + KernelDims::kRope);
    store_vector(to + lane * kHeld, raw[0]);
    store_vector(to + lane * kHeld + kLaneValues, raw[1]);
    *reinterpret_cast<uint32_t*>(to + kLatent + 2 * lane) = rope;
    return;
  }
  constexpr int kLanes = kFp8Block / kHeld;  // of a group
  float amax = fmaxf(greatest_magnitude(v[0]), greatest_magnitude(v[1]));
  float scale = group_scale(greatest_over<kLanes>(amax), part.ue8m0);
  float by = exact_inverse(scale, part.ue8m0);
  uint2 low = codes_of(v[0], scale, by), high = codes_of(v[1], scale, by);
  LatentRowFp8* to = reinterpret_cast<LatentRowFp8*>(part.cache) + row;
  *reinterpret_cast<uint4*>(to->code + lane * kHeld) = {low.x, low.y, high.x, high.y};
  if (lane % kLanes == 0) to->scale[lane / kLanes] = scale;
  *reinterpret_cast<uint32_t*>(to->rope + 2 * lane) = rope;
}

// Sixteen lanes hold a vector of 128; its first 64 values turn in pairs (i, i + 32).
__device__ __forceinline__ void rotate_index(float (&v)[kLaneValues], int lane,
                                             const float* cos_row, const float* sin_row) {
  constexpr int kHalfLanes = kPairs / kLaneValues;  // lanes 0..3 pair with lanes 4..7
  float cos[kLaneValues], sin[kLaneValues];
  load_floats(cos_row + lane % kHalfLanes * kLaneValues, cos);
  load_floats(sin_row + lane % kHalfLanes * kLaneValues, sin);
#pragma unroll
  for (int j = 0; j < kLaneValues; ++j) {
    float other = __shfl_xor_sync(kWarp, v[j], kHalfLanes);
    bool first = (lane & kHalfLanes) == 0;
    float a = first ? v[j] : other, b = first ? other : v[j];
    Pair turned = rotate_rounded({a, b}, cos[j], sin[j]);
    if (lane < 2 * kHalfLanes) v[j] = first ? turned.a : turned.b;
  }
  round_all(v);
}

// x H / sqrt(128): strides 1, 2, 4 inside a lane, then 8 .. 64 across lanes.
__device__ __forceinline__ void hadamard_index(float (&v)[kLaneValues], int lane, float norm) {
#pragma unroll
  for (int half = 1; half < kLaneValues; half *= 2)
#pragma unroll
    for (int j = 0; j < kLaneValues; ++j)
      if ((j & half) == 0) {
        float a = v[j], b = v[j + half];
        v[j] = a + b;
        v[j + half] = a - b;
      }
#pragma unroll
  for (int other = 1; other < kIndexLanes; other *= 2)
#pragma unroll
    for (int j = 0; j < kLaneValues; ++j) {
      float theirs = __shfl_xor_sync(kWarp, v[j], other);
      v[j] = (lane & other) == 0 ? v[j] + theirs : theirs - v[j];
    }
#pragma unroll
  for (int j = 0; j < kLaneValues; ++j) v[j] *= norm;
  round_all(v);
}

__device__ __forceinline__ void append_index_key(const PositionParams& p, const PositionGrid& g,
                                                 int block) {
  const IndexKeyPart& part = p.index_key;
  const int lane = threadIdx.x % kIndexLanes;
  const int item = block * kIndexRows + static_cast<int>(threadIdx.x) / kIndexLanes;
  const int token = min(item, p.tokens - 1);  // idle lanes repeat the last token up to its stores
  const int first = lane * kLaneValues;
  float v[kLaneValues], weight[kLaneValues], bias[kLaneValues];
  unpack(load_vector(part.k + token * part.stride + first), v);
  load_floats(part.weight + first, weight);
  load_floats(part.bias + first, bias);
  const int64_t position = p.positions[token];
  const int64_t row = cache_row(p, token, static_cast<int>(position));

  float sum = 0.0f, square = 0.0f;
#pragma unroll
  for (int j = 0; j < kLaneValues; ++j) sum += v[j];
  float mean = sum_over<kIndexLanes>(sum) * (1.0f / KernelDims::kIndex);
#pragma unroll
  for (int j = 0; j < kLaneValues; ++j) square = fmaf(v[j] - mean, v[j] - mean, square);
  float inverse = inverse_rms(sum_over<kIndexLanes>(square), KernelDims::kIndex, kIndexNormEps);
#pragma unroll
  for (int j = 0; j < kLaneValues; ++j) v[j] = fmaf((v[j] - mean) * inverse, weight[j], bias[j]);
  round_all(v);
  rotate_index(v, lane, p.cos + position * kPairs, p.sin + position * kPairs);

  if (!part.fp8) {
    if (item < p.tokens)
      store_vector(reinterpret_cast<Bf16*>(part.cache) + row * KernelDims::kIndex + first, pack(v));
    return;
  }
  hadamard_index(v, lane, g.index_scale);
  float scale;
  uint2 codes = quantise_group(v, part.ue8m0, scale);
  if (item >= p.tokens) return;
  IndexPageFp8* page = reinterpret_cast<IndexPageFp8*>(part.cache) + row / kPageRows;
  const int64_t slot = row % kPageRows;
  *reinterpret_cast<uint2*>(page->code[slot] + first) = codes;
  if (lane == 0) page->scale[slot] = scale;
}

__device__ __forceinline__ void turn_index_query(const PositionParams& p, const PositionGrid& g,
                                                 int block) {
  const IndexQueryPart& part = p.index_query;
  const int lane = threadIdx.x % kIndexLanes, first = lane * kLaneValues;
  const unsigned items = static_cast<unsigned>(p.tokens) * static_cast<unsigned>(part.heads);
  const unsigned item = static_cast<unsigned>(block) * kIndexRows + threadIdx.x / kIndexLanes;
  const bool live = item < items;  // idle lanes repeat the last head up to its stores
  const unsigned at = live ? item : items - 1, heads = static_cast<unsigned>(part.heads);
  const int64_t token = at / heads, head = at % heads;
  const int64_t column = head * KernelDims::kIndex + first;
  float v[kLaneValues];
  unpack(load_vector(part.q + token * part.stride + column), v);
  float* weight = part.head_weight + token * part.weight_stride + head;
  // One lane a head touches the weight, in the reference's order of products.
  float w = live && lane == 0 ? *weight : 0.0f;
  const int64_t position = p.positions[token];
  rotate_index(v, lane, p.cos + position * kPairs, p.sin + position * kPairs);
  w *= g.head_scale;
  if (part.fp8) {
    hadamard_index(v, lane, g.index_scale);
    float scale;
    uint2 codes = quantise_group(v, part.ue8m0, scale);
    w *= scale;
    if (live)
      *reinterpret_cast<uint2*>(static_cast<uint8_t*>(part.out) + token * part.out_stride +
                                column) = codes;
  } else if (live) {
    store_vector(static_cast<Bf16*>(part.out) + token * part.out_stride + column, pack(v));
  }
  w *= g.index_scale;
  if (live && lane == 0) *weight = w;
}

// Flat over the rope vectors of all heads: eight lanes hold the 64 values of one.
__device__ __forceinline__ void rope_query(const PositionParams& p, int block) {
  const RopeQueryPart& part = p.rope_query;
  const unsigned per_token = static_cast<unsigned>(part.heads) * kRopeLanes;
  const unsigned items = static_cast<unsigned>(p.tokens) * per_token;
  const unsigned first = static_cast<unsigned>(block) * kThreads * kRopeTurns + threadIdx.x;
  int64_t at[kRopeTurns];
  uint4 raw[kRopeTurns];
  float4 cos[kRopeTurns], sin[kRopeTurns];
#pragma unroll
  for (int i = 0; i < kRopeTurns; ++i) {
    unsigned item = first + i * kThreads;
    item = item < items ? item : items - 1;  // idle lanes repeat the last one up to the store
    const unsigned token = item / per_token, rest = item % per_token;
    const int64_t head = rest / kRopeLanes, lane = rest % kRopeLanes;
    at[i] = token * part.stride + head * part.width + part.width - KernelDims::kRope +
            lane * kLaneValues;
    raw[i] = load_vector(part.q + at[i]);
    const int64_t angle = int64_t{p.positions[token]} * kPairs + lane * kLaneValues / 2;
    cos[i] = *reinterpret_cast<const float4*>(p.cos + angle);
    sin[i] = *reinterpret_cast<const float4*>(p.sin + angle);
  }
#pragma unroll
  for (int i = 0; i < kRopeTurns; ++i) {
    float v[kLaneValues];
    unpack(raw[i], v);
    const float c[4] = {cos[i].x, cos[i].y, cos[i].z, cos[i].w};
    const float s[4] = {sin[i].x, sin[i].y, sin[i].z, sin[i].w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      Pair turned = rotate_rounded({v[2 * j], v[2 * j + 1]}, c[j], s[j]);
      v[2 * j] = turned.a;
      v[2 * j + 1] = turned.b;
    }
    if (first + i * kThreads < items) store_vector(part.q + at[i], pack(v));
  }
}

__global__ void __launch_bounds__(kThreads) position_kernel(PositionParams p, PositionGrid g) {
  pdl_wait();
  pdl_trigger();
  int block = static_cast<int>(blockIdx.x);
  if (block < g.latent) return append_latent(p, block);
  block -= g.latent;
  if (block < g.index_key) return append_index_key(p, g, block);
  block -= g.index_key;
  if (block < g.index_query) return turn_index_query(p, g, block);
  rope_query(p, block - g.index_query);
}

}  // namespace

void run_position(const PositionParams& p, const Launch& l) {
  const PositionGrid g = plan_grid(p);
  const int blocks = g.latent + g.index_key + g.index_query + g.rope_query;
  if (blocks == 0) return;
  require(int64_t{p.tokens} * p.rope_query.heads < INT32_MAX / 16 &&
              int64_t{p.tokens} * p.index_query.heads < INT32_MAX / 16,
          "more query heads in a step than 32 bits count");
  require(p.rope_query.width % kLaneValues == 0 && p.rope_query.stride % kLaneValues == 0 &&
              p.latent.stride % kLaneValues == 0 && p.index_key.stride % kLaneValues == 0 &&
              p.index_query.stride % kLaneValues == 0 &&
              p.index_query.out_stride % kLaneValues == 0,
          "queries, keys or latents whose stride is no multiple of 8");
  launch_kernel(l, position_kernel, dim3(blocks), dim3(kThreads), 0, 1, p, g);
}

}  // namespace fathom::cuda
