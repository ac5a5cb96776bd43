// Everything that moves ragged rows: gathers in front of the experts, the activation between their
// two products, and the weighted sum behind them. Bound by memory, so every access is 16 bytes (8
// where codes are written), and a fixed number of CTAs walks over the live rows only.
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
// Gathers. A unit is one piece of a row, moved by one warp, or the scales of 32 rows of a group, so
// that their writes are whole lines. A token's row is read once for each of its experts and should
// stay in the cache meanwhile, so the copies are marked to be evicted first.

constexpr int kLoads = 7;  // in flight a lane: 3.5 KB a warp, half of V3.2's hidden size in fp8
constexpr int kPiece = kLoads * 32 * 16;

__device__ __forceinline__ void copy_piece(unsigned char* to, const unsigned char* from,
                                           int bytes) {
  const int lane = threadIdx.x % 32;
  uint4 v[kLoads];
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    int at = (i * 32 + lane) * 16;
    if (at < bytes) v[i] = load16(from + at);
  }
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    int at = (i * 32 + lane) * 16;
    if (at < bytes) __stcs(reinterpret_cast<uint4*>(to + at), v[i]);
  }
}

struct GatherRows {
  const unsigned char* in;
  unsigned char* out;
  int bytes;  // of a row
  const int32_t* token_of;
  const int32_t* live_rows;
  const float* scales;  // null: none
  float* out_scales;
  int64_t scale_stride, scale_row, out_scale_stride;
};

__global__ void __launch_bounds__(kThreads) gather_kernel(GatherRows p) {
  pdl_wait();
  pdl_trigger();
  const int lane = threadIdx.x % 32;
  const unsigned warps = gridDim.x * kWarps, me = blockIdx.x * kWarps + threadIdx.x / 32;
  const unsigned live = *p.live_rows, pieces = (p.bytes + kPiece - 1) / kPiece;
  for (unsigned unit = me; unit < live * pieces; unit += warps) {
    unsigned r = unit / pieces, piece = unit % pieces;
    int64_t token = p.token_of[r];
    int64_t at = static_cast<int64_t>(piece) * kPiece;
    copy_piece(p.out + static_cast<int64_t>(r) * p.bytes + at, p.in + token * p.bytes + at,
               min(kPiece, p.bytes - static_cast<int>(at)));
  }
  if (!p.scales) return;
  const unsigned groups = p.bytes / kFp8Block, runs = (live + 31) / 32;
  // Scales are given out from the last warp down, since the last warps may have copied a piece
  // less.
  for (unsigned unit = warps - 1 - me; unit < runs * groups; unit += warps) {
    unsigned r = unit / groups * 32 + lane, g = unit % groups;
    if (r < live)
      p.out_scales[g * p.out_scale_stride + r] =
          p.scales[g * p.scale_stride + p.token_of[r] * p.scale_row];
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

// ---------------------------------------------------------------------------------------------
// Weighted sum. One CTA takes 1024 columns of a token.
//
// Numerics: f32, one fused multiply-add an expert in ascending expert id (= ascending ragged row),
// then the shared expert; rounded once.

constexpr int kCombineThreads = 128;

__global__ void __launch_bounds__(kCombineThreads) combine_kernel(CombineParams p) {
  __shared__ int32_t sorted_row[kMaxExpertsPerToken];
  __shared__ float sorted_weight[kMaxExpertsPerToken];
  const int t = blockIdx.y, tid = threadIdx.x, lane = tid % 32;
  pdl_wait();
  pdl_trigger();
  // Sorts the token's rows: the place of each slot's row. Pairs without an expert have no row.
  int32_t row = lane < p.per_token ? p.row_of[static_cast<int64_t>(t) * p.per_token + lane] : -1;
  const int experts = __popc(__ballot_sync(~0u, row >= 0));
  if (tid < 32) {
    int place = 0;
    for (int k = 0; k < p.per_token; ++k) {
      int32_t other = __shfl_sync(~0u, row, k);
      place += other >= 0 && other < row;
    }
    if (row >= 0) {
      sorted_row[place] = row;
      sorted_weight[place] = p.weights[static_cast<int64_t>(t) * p.per_token + lane];
    }
  }
  __syncthreads();
  const int column = (blockIdx.x * kCombineThreads + tid) * 8;
  if (column >= p.n) return;
  const int64_t at = static_cast<int64_t>(t) * p.n + column;
  uint4 common = {};
  if (p.shared) common = load16(p.shared + at);
  float sum[8] = {};
  for (int begin = 0; begin < experts; begin += 8) {
    uint4 v[8];
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (begin + i < experts)
        v[i] = load16(p.rows + static_cast<int64_t>(sorted_row[begin + i]) * p.n + column);
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (begin + i < experts) {
        const float w = sorted_weight[begin + i];
        const uint32_t word[4] = {v[i].x, v[i].y, v[i].z, v[i].w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          sum[2 * j] = __fmaf_rn(w, low_half(word[j]), sum[2 * j]);
          sum[2 * j + 1] = __fmaf_rn(w, high_half(word[j]), sum[2 * j + 1]);
        }
      }
  }
  const uint32_t word[4] = {common.x, common.y, common.z, common.w};
  uint32_t out[4];
#pragma unroll
  for (int j = 0; j < 4; ++j)
    out[j] = pack_bf16(sum[2 * j] + low_half(word[j]), sum[2 * j + 1] + high_half(word[j]));
  *reinterpret_cast<uint4*>(p.out + at) = {out[0], out[1], out[2], out[3]};
}

// CTAs of a grid that walks over `units` of work, `per_cta` at a time.
dim3 walkers(int64_t units, int64_t per_cta, const Launch& l) {
  int64_t most = int64_t{l.sms} * kResident, wanted = (units + per_cta - 1) / per_cta;
  return dim3(static_cast<unsigned>(wanted < most ? wanted : most));
}

void launch_gather(const GatherRows& p, int max_rows, const Launch& l) {
  if (max_rows == 0) return;
  const int64_t pieces = (p.bytes + kPiece - 1) / kPiece;
  require(max_rows * pieces < int64_t{1} << 31, "gather: too many rows");
  launch_kernel(l, gather_kernel, walkers(max_rows * pieces, kWarps, l), dim3(kThreads), 0, 1, p);
}

}  // namespace moe

void gather_quantised(const GatherQuantisedParams& p, const Launch& l) {
  require(p.k > 0 && p.k % kFp8Block == 0, "gather: quantised rows are whole groups of 128");
  require(p.out_scale_stride >= p.max_rows, "gather: scale stride below the number of rows");
  moe::launch_gather({p.codes, p.out_codes, p.k, p.token_of, p.live_rows, p.scales, p.out_scales,
                      p.scale_stride, p.scale_row, p.out_scale_stride},
                     p.max_rows, l);
}

void gather_bf16(const GatherBf16Params& p, const Launch& l) {
  require(p.n > 0 && p.n % 8 == 0, "gather: rows are a multiple of 8 bf16 values");
  moe::launch_gather(
      {reinterpret_cast<const unsigned char*>(p.rows), reinterpret_cast<unsigned char*>(p.out),
       p.n * 2, p.token_of, p.live_rows, nullptr, nullptr, 0, 1, 0},
      p.max_rows, l);
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

void combine(const CombineParams& p, const Launch& l) {
  if (p.tokens == 0) return;
  require(p.n > 0 && p.n % 8 == 0, "combine: rows are a multiple of 8 values");
  require(p.per_token >= 0 && p.per_token <= kMaxExpertsPerToken,
          "combine: up to 32 experts a token");
  require(p.tokens <= 65535, "combine: up to 65535 tokens a step");
  const unsigned columns = moe::kCombineThreads * 8;
  launch_kernel(l, moe::combine_kernel, dim3((p.n + columns - 1) / columns, p.tokens),
                dim3(moe::kCombineThreads), 0, 1, p);
}

}  // namespace fathom::cuda
