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
// Four lanes hold an indexer vector: lane l the chunks of eight values l, l + 4, l + 8, l + 12. So
// pairs of the rope and five of the rotation's seven steps stay inside a lane.
constexpr int kIndexLanes = 4;
constexpr int kIndexChunks = KernelDims::kIndex / kLaneValues / kIndexLanes;
constexpr int kIndexRows = kThreads / kIndexLanes;  // of a CTA
using IndexValues = float[kIndexChunks][kLaneValues];
constexpr int kRopeLanes = KernelDims::kRope / kLaneValues;
constexpr int kRopeTurns = 4;  // vectors a thread keeps in flight
constexpr float kIndexNormEps = 1e-6f;

// How many CTAs each part has, in this order. Parts with a reduction come first, since they take
// longest.
struct PositionGrid {
  int latent, index_key, index_query, rope_query;
  // Square roots are computed on the host: they are slow here, and these bits equal the
  // reference's.
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
    Bf16* to = reinterpret_cast<Bf16*>(part.cache) + row * KernelDims::kRow;
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

// First value of chunk m of a lane.
__device__ __forceinline__ int index_column(int lane, int m) {
  return (lane + m * kIndexLanes) * kLaneValues;
}

// Pairs (i, i + 32) of the first 64 values: chunks 0 and 1 of the same lane.
__device__ __forceinline__ void rotate_index(IndexValues& v, int lane, const float* cos_row,
                                             const float* sin_row) {
  static_assert(kIndexLanes * kLaneValues == kPairs);
  float cos[kLaneValues], sin[kLaneValues];
  load_floats(cos_row + lane * kLaneValues, cos);
  load_floats(sin_row + lane * kLaneValues, sin);
#pragma unroll
  for (int j = 0; j < kLaneValues; ++j) {
    Pair turned = rotate_rounded({v[0][j], v[1][j]}, cos[j], sin[j]);
    v[0][j] = turned.a;
    v[1][j] = turned.b;
  }
  round_all(v[0]);
  round_all(v[1]);
}

// x H / sqrt(128): strides 1, 2, 4 inside a chunk, 8 and 16 across lanes, 32 and 64 across chunks.
__device__ __forceinline__ void hadamard_index(IndexValues& v, int lane, float norm) {
#pragma unroll
  for (int half = 1; half < kLaneValues; half *= 2)
#pragma unroll
    for (int m = 0; m < kIndexChunks; ++m)
#pragma unroll
      for (int j = 0; j < kLaneValues; ++j)
        if ((j & half) == 0) {
          float a = v[m][j], b = v[m][j + half];
          v[m][j] = a + b;
          v[m][j + half] = a - b;
        }
#pragma unroll
  for (int other = 1; other < kIndexLanes; other *= 2) {
    const float sign = (lane & other) == 0 ? 1.0f : -1.0f;
#pragma unroll
    for (int m = 0; m < kIndexChunks; ++m)
#pragma unroll
      for (int j = 0; j < kLaneValues; ++j)
        v[m][j] = fmaf(sign, v[m][j], __shfl_xor_sync(kWarp, v[m][j], other));  // exact product
  }
#pragma unroll
  for (int half = 1; half < kIndexChunks; half *= 2)
#pragma unroll
    for (int m = 0; m < kIndexChunks; ++m)
      if ((m & half) == 0)
#pragma unroll
        for (int j = 0; j < kLaneValues; ++j) {
          float a = v[m][j], b = v[m + half][j];
          v[m][j] = a + b;
          v[m + half][j] = a - b;
        }
#pragma unroll
  for (int m = 0; m < kIndexChunks; ++m) {
#pragma unroll
    for (int j = 0; j < kLaneValues; ++j) v[m][j] *= norm;
    round_all(v[m]);
  }
}

// Scale of the whole vector; every lane of the warp must call.
__device__ __forceinline__ float index_scale(const IndexValues& v, bool ue8m0) {
  float top = 0.0f;
#pragma unroll
  for (int m = 0; m < kIndexChunks; ++m) top = fmaxf(top, greatest_magnitude(v[m]));
  return group_scale(greatest_over<kIndexLanes>(top), ue8m0);
}

__device__ __forceinline__ void store_codes(uint8_t* to, const IndexValues& v, int lane,
                                            float scale, bool ue8m0) {
  const float by = exact_inverse(scale, ue8m0);
#pragma unroll
  for (int m = 0; m < kIndexChunks; ++m)
    *reinterpret_cast<uint2*>(to + index_column(lane, m)) = codes_of(v[m], scale, by);
}

__device__ __forceinline__ void store_values(Bf16* to, const IndexValues& v, int lane) {
#pragma unroll
  for (int m = 0; m < kIndexChunks; ++m) store_vector(to + index_column(lane, m), pack(v[m]));
}

__device__ __forceinline__ void append_index_key(const PositionParams& p, const PositionGrid& g,
                                                 int block) {
  const IndexKeyPart& part = p.index_key;
  const int lane = threadIdx.x % kIndexLanes;
  const int item = block * kIndexRows + static_cast<int>(threadIdx.x) / kIndexLanes;
  const int token = min(item, p.tokens - 1);  // idle lanes repeat the last token up to its stores
  IndexValues v;
#pragma unroll
  for (int m = 0; m < kIndexChunks; ++m)
    unpack(load_vector(part.k + token * part.stride + index_column(lane, m)), v[m]);
  const int64_t position = p.positions[token];
  const int64_t row = cache_row(p, token, static_cast<int>(position));

  float sum = 0.0f, square = 0.0f;
#pragma unroll
  for (int m = 0; m < kIndexChunks; ++m)
#pragma unroll
    for (int j = 0; j < kLaneValues; ++j) sum += v[m][j];
  float mean = sum_over<kIndexLanes>(sum) * (1.0f / KernelDims::kIndex);
#pragma unroll
  for (int m = 0; m < kIndexChunks; ++m)
#pragma unroll
    for (int j = 0; j < kLaneValues; ++j) square = fmaf(v[m][j] - mean, v[m][j] - mean, square);
  float inverse = inverse_rms(sum_over<kIndexLanes>(square), KernelDims::kIndex, kIndexNormEps);
#pragma unroll
  for (int m = 0; m < kIndexChunks; ++m) {
    float weight[kLaneValues], bias[kLaneValues];
    load_floats(part.weight + index_column(lane, m), weight);
    load_floats(part.bias + index_column(lane, m), bias);
#pragma unroll
    for (int j = 0; j < kLaneValues; ++j)
      v[m][j] = fmaf((v[m][j] - mean) * inverse, weight[j], bias[j]);
    round_all(v[m]);
  }
  rotate_index(v, lane, p.cos + position * kPairs, p.sin + position * kPairs);

  if (!part.fp8) {
    if (item < p.tokens)
      store_values(reinterpret_cast<Bf16*>(part.cache) + row * KernelDims::kIndex, v, lane);
    return;
  }
  hadamard_index(v, lane, g.index_scale);
  const float scale = index_scale(v, part.ue8m0);
  if (item >= p.tokens) return;
  IndexPageFp8* page = reinterpret_cast<IndexPageFp8*>(part.cache) + row / kPageRows;
  const int64_t slot = row % kPageRows;
  store_codes(page->code[slot], v, lane, scale, part.ue8m0);
  if (lane == 0) page->scale[slot] = scale;
}

__device__ __forceinline__ void turn_index_query(const PositionParams& p, const PositionGrid& g,
                                                 int block) {
  const IndexQueryPart& part = p.index_query;
  const int lane = threadIdx.x % kIndexLanes;
  const unsigned items = static_cast<unsigned>(p.tokens) * static_cast<unsigned>(part.heads);
  const unsigned item = static_cast<unsigned>(block) * kIndexRows + threadIdx.x / kIndexLanes;
  const bool live = item < items;  // idle lanes repeat the last head up to its stores
  const unsigned at = live ? item : items - 1, heads = static_cast<unsigned>(part.heads);
  const int64_t token = at / heads, head = at % heads, first = head * KernelDims::kIndex;
  IndexValues v;
#pragma unroll
  for (int m = 0; m < kIndexChunks; ++m)
    unpack(load_vector(part.q + token * part.stride + first + index_column(lane, m)), v[m]);
  float* weight = part.head_weight + token * part.weight_stride + head;
  // One lane a head touches the weight, in the reference's order of products.
  float w = live && lane == 0 ? *weight : 0.0f;
  const int64_t position = p.positions[token];
  rotate_index(v, lane, p.cos + position * kPairs, p.sin + position * kPairs);
  w *= g.head_scale;
  if (part.fp8) {
    hadamard_index(v, lane, g.index_scale);
    const float scale = index_scale(v, part.ue8m0);
    w *= scale;
    if (live)
      store_codes(static_cast<uint8_t*>(part.out) + token * part.out_stride + first, v, lane, scale,
                  part.ue8m0);
  } else if (live) {
    store_values(static_cast<Bf16*>(part.out) + token * part.out_stride + first, v, lane);
  }
  w *= g.index_scale;
  if (live && lane == 0) *weight = w;
}

// Walks over the rope vectors of all heads; eight lanes hold the 64 values of one.
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
