// What moves ragged rows: gathers in front of the experts, and the activation between their two
// products. Bound by memory, so every access is 16 bytes (8 where codes are written), and a fixed
// number of CTAs walks over the live rows only.
#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "kernels/cuda/moe/moe.h"
#include "numerics/fp8.h"

namespace fathom::cuda {
namespace moe {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kResident = 8;  // CTAs of 256 threads on an SM

// Not a read-only load: the data may still be written while this kernel waits for its predecessor.
__device__ __forceinline__ uint4 load16(const void* p) { return *static_cast<const uint4*>(p); }

// ---------------------------------------------------------------------------------------------
// Gathers. A unit is one piece of a token's row, read once by a warp and written to some of the
// token's experts' rows (all of them, where there are enough tokens to fill the GPU), or the scales
// of 32 rows of a few groups, so that their writes are whole lines. The copies are marked to be
// evicted first.

constexpr int kLoads = 7;  // in flight a lane: 3.5 KB a warp, half of V3.2's hidden size in fp8
constexpr int kPiece = kLoads * 32 * 16;
constexpr unsigned kScaleGroups = 8;  // of a unit of scales

struct GatherRows {
  const unsigned char* in = nullptr;
  unsigned char* out = nullptr;
  int bytes = 0;  // of a row
  int tokens = 0, per_token = 0;
  int slots = 1;  // of a unit
  const int32_t* row_of = nullptr;
  const int32_t* token_of = nullptr;
  const int32_t* live_rows = nullptr;
  const float* scales = nullptr;  // null: none
  float* out_scales = nullptr;
  int64_t scale_stride = 0, scale_row = 1, out_scale_stride = 0;
};

__global__ void __launch_bounds__(kThreads) gather_kernel(GatherRows p) {
  pdl_wait();
  pdl_trigger();
  const int lane = threadIdx.x % 32;
  const unsigned warps = gridDim.x * kWarps, me = blockIdx.x * kWarps + threadIdx.x / 32;
  const unsigned pieces = (p.bytes + kPiece - 1) / kPiece;
  const unsigned shares = (p.per_token + p.slots - 1) / p.slots;
  const unsigned units = p.tokens * pieces * shares;
  for (unsigned unit = me; unit < units; unit += warps) {
    const unsigned piece = unit % pieces, share = unit / pieces % shares;
    const int64_t token = unit / pieces / shares;
    const int first = share * p.slots, slots = min(p.slots, p.per_token - first);
    const int32_t row = lane < slots ? p.row_of[token * p.per_token + first + lane] : -1;
    const int begin = piece * kPiece, bytes = min(kPiece, p.bytes - begin);
    const unsigned char* from = p.in + token * p.bytes + begin;
    uint4 v[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int at = (i * 32 + lane) * 16;
      if (at < bytes) v[i] = load16(from + at);
    }
    for (int slot = 0; slot < slots; ++slot) {
      const int64_t to_row = __shfl_sync(~0u, row, slot);
      if (to_row < 0) continue;  // the pair has no expert here
      unsigned char* to = p.out + to_row * p.bytes + begin;
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int at = (i * 32 + lane) * 16;
        if (at < bytes) __stcs(reinterpret_cast<uint4*>(to + at), v[i]);
      }
    }
  }
  if (!p.scales) return;
  const unsigned live = *p.live_rows;
  const unsigned groups = p.bytes / kFp8Block, runs = (live + 31) / 32;
  // Scales are given out from the last warp down, since the last warps may have copied a piece
  // less.
  const unsigned parts = (groups + kScaleGroups - 1) / kScaleGroups;
  for (unsigned unit = warps - 1 - me; unit < runs * parts; unit += warps) {
    const unsigned r = unit / parts * 32 + lane, first = unit % parts * kScaleGroups;
    if (r >= live) continue;
    const float* from = p.scales + p.token_of[r] * p.scale_row;
    float v[kScaleGroups];
#pragma unroll
    for (unsigned i = 0; i < kScaleGroups; ++i)
      if (first + i < groups) v[i] = from[(first + i) * p.scale_stride];
#pragma unroll
    for (unsigned i = 0; i < kScaleGroups; ++i)
      if (first + i < groups) p.out_scales[(first + i) * p.out_scale_stride + r] = v[i];
  }
}

// ---------------------------------------------------------------------------------------------
// Activation. A lane takes 8 neighbours of gate and up; 16 lanes make a quantisation group.
//
// Numerics
//   silu   a / (1 + e^-a) in f32 by the fast exponential and quotient (relative error < 1e-6,
//          against 2e-3 of the rounding that follows); e^-a = inf gives 0
//   act    silu * up rounded to bf16: what is stored or quantised
//   codes  value / scale rounded by the hardware's e4m3 conversion, which equals quantise() for
//          every bf16 value and scale (tests/cuda/moe_test.cpp compares all)

__device__ __forceinline__ float silu(float a) { return __fdividef(a, 1.0f + __expf(-a)); }

// Two bf16 in a word, lower address in the lower half.
__device__ __forceinline__ float low_half(uint32_t v) { return float_of(v << 16); }
__device__ __forceinline__ float high_half(uint32_t v) { return float_of(v & 0xFFFF0000u); }
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<uint32_t*>(&v);
}

__device__ __forceinline__ uint32_t activate(uint32_t gate, uint32_t up) {
  return pack_bf16(silu(low_half(gate)) * low_half(up), silu(high_half(gate)) * high_half(up));
}

// Codes of four values, lowest address in the lowest byte.
__device__ __forceinline__ uint32_t pack_codes(float a, float b, float c, float d) {
  uint32_t low = __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
  uint32_t high = __nv_cvt_float2_to_fp8x2(make_float2(c, d), __NV_SATFINITE, __NV_E4M3);
  return low | high << 16;
}

template <bool kQuantise>
__global__ void __launch_bounds__(kThreads) silu_mul_kernel(SiluMulParams p) {
  pdl_wait();
  pdl_trigger();
  const unsigned live = p.live_rows ? *p.live_rows : p.max_rows;
  const unsigned per_row = p.intermediate / 8, lanes = live * per_row;
  const unsigned step = gridDim.x * kThreads;
  // The 16 lanes of a group are all active or all inactive: when quantising, per_row is a multiple
  // of 16.
  for (unsigned at = blockIdx.x * kThreads + threadIdx.x; at < lanes; at += step) {
    const unsigned r = at / per_row, c = at % per_row;
    const Bf16* row = p.gate_up + static_cast<int64_t>(r) * 2 * p.intermediate + c * 8;
    const uint4 gate = load16(row), up = load16(row + p.intermediate);
    const uint4 act = {activate(gate.x, up.x), activate(gate.y, up.y), activate(gate.z, up.z),
                       activate(gate.w, up.w)};
    if constexpr (!kQuantise) {
      *reinterpret_cast<uint4*>(p.out + static_cast<int64_t>(r) * p.intermediate + c * 8) = act;
    } else {
      const uint32_t word[4] = {act.x, act.y, act.z, act.w};
      float v[8], amax = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        v[2 * i] = low_half(word[i]);
        v[2 * i + 1] = high_half(word[i]);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) amax = fmaxf(amax, fabsf(v[i]));
      const uint32_t group_lanes = 0xFFFFu << (threadIdx.x & 16);
#pragma unroll
      for (int d = 8; d > 0; d /= 2) amax = fmaxf(amax, __shfl_xor_sync(group_lanes, amax, d));
      const float scale = group_scale(amax, p.ue8m0);
      // Dividing by a power of two is multiplying by its inverse, exactly.
      const float inverse = p.ue8m0 ? 1.0f / scale : 0.0f;
#pragma unroll
      for (int i = 0; i < 8; ++i) v[i] = p.ue8m0 ? v[i] * inverse : __fdiv_rn(v[i], scale);
      *reinterpret_cast<uint2*>(p.codes + static_cast<int64_t>(r) * p.intermediate + c * 8) = {
          pack_codes(v[0], v[1], v[2], v[3]), pack_codes(v[4], v[5], v[6], v[7])};
      if (threadIdx.x % 16 == 0) p.scales[(c / 16) * p.scale_stride + r] = scale;
    }
  }
}

// CTAs of a grid that walks over `units` of work, `per_cta` at a time.
dim3 walkers(int64_t units, int64_t per_cta, const Launch& l) {
  int64_t most = int64_t{l.sms} * kResident, wanted = (units + per_cta - 1) / per_cta;
  return dim3(static_cast<unsigned>(wanted < most ? wanted : most));
}

void launch_gather(GatherRows p, const Launch& l) {
  const int64_t pairs = int64_t{p.tokens} * p.per_token;
  if (pairs == 0) return;
  const int64_t pieces = (p.bytes + kPiece - 1) / kPiece;
  require(pairs * pieces < int64_t{1} << 31, "gather: too many rows");
  require(p.per_token <= kMaxExpertsPerToken, "gather: up to 32 experts a token");
  const bool fill = p.tokens * pieces >= int64_t{l.sms} * kWarps * 2;
  p.slots = fill ? p.per_token : 1;
  launch_kernel(l, gather_kernel, walkers(pairs * pieces / p.slots, kWarps, l), dim3(kThreads), 0,
                1, p);
}

}  // namespace moe

void gather_quantised(const GatherQuantisedParams& p, const Launch& l) {
  require(p.k > 0 && p.k % kFp8Block == 0, "gather: quantised rows are whole groups of 128");
  require(p.out_scale_stride >= int64_t{p.tokens} * p.per_token,
          "gather: scale stride below the number of rows");
  moe::launch_gather({.in = p.codes,
                      .out = p.out_codes,
                      .bytes = p.k,
                      .tokens = p.tokens,
                      .per_token = p.per_token,
                      .row_of = p.row_of,
                      .token_of = p.token_of,
                      .live_rows = p.live_rows,
                      .scales = p.scales,
                      .out_scales = p.out_scales,
                      .scale_stride = p.scale_stride,
                      .scale_row = p.scale_row,
                      .out_scale_stride = p.out_scale_stride},
                     l);
}

void gather_bf16(const GatherBf16Params& p, const Launch& l) {
  require(p.n > 0 && p.n % 8 == 0, "gather: rows are a multiple of 8 bf16 values");
  moe::launch_gather({.in = reinterpret_cast<const unsigned char*>(p.rows),
                      .out = reinterpret_cast<unsigned char*>(p.out),
                      .bytes = p.n * 2,
                      .tokens = p.tokens,
                      .per_token = p.per_token,
                      .row_of = p.row_of},
                     l);
}

void silu_mul(const SiluMulParams& p, const Launch& l) {
  if (p.max_rows == 0) return;
  const int unit = p.out ? 8 : kFp8Block;
  require(p.intermediate > 0 && p.intermediate % unit == 0,
          "activation: rows are a multiple of 8 (bf16) or 128 (fp8) values");
  require(p.out || p.scale_stride >= p.max_rows, "activation: scale stride below the row count");
  const int64_t lanes = int64_t{p.max_rows} * (p.intermediate / 8);
  require(lanes < int64_t{1} << 31, "activation: too many rows");
  const dim3 grid = moe::walkers(lanes, moe::kThreads, l), block(moe::kThreads);
  if (p.out)
    launch_kernel(l, moe::silu_mul_kernel<false>, grid, block, 0, 1, p);
  else
    launch_kernel(l, moe::silu_mul_kernel<true>, grid, block, 0, 1, p);
}

}  // namespace fathom::cuda
